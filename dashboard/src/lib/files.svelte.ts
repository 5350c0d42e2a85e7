// The files of one sandbox as the page shows them: what was opened, what is chosen, what is on its way up.
import { describe } from '$api/errors';
import { listFiles, makeFolder, moveFile, removeFile, upload } from '$api/files';
import type { FileEntry } from '$api/types';

import { toasts } from './toasts.svelte';
import { ancestors, baseName, inOrder, join, parent, rows } from './tree';

export interface Upload {
	name: string;
	part: number;
	problem: string | null;
}

export class Files {
	known = $state.raw(new Map<string, FileEntry[]>());
	opened = $state.raw(new Set<string>());
	chosen = $state.raw<FileEntry | null>(null);
	problem = $state<string | null>(null);
	uploads = $state<Upload[]>([]);
	rows = $derived(rows(this.known, this.opened, '/'));

	constructor(readonly id: string) {}

	/** The folder that new things go into. */
	get folder(): string {
		if (!this.chosen) return '/';
		return this.chosen.type === 'directory' ? this.chosen.path : parent(this.chosen.path);
	}

	/** Opens every folder on the way, and chooses the last. */
	async reveal(path: string): Promise<void> {
		for (const folder of ancestors(path)) {
			if (!(await this.#read(folder))) break;
			this.opened = new Set(this.opened).add(folder);
		}
		this.chosen = this.rows.find((row) => row.entry.path === path)?.entry ?? this.chosen;
	}

	async toggle(entry: FileEntry): Promise<void> {
		const opened = new Set(this.opened);
		if (opened.delete(entry.path)) {
			this.opened = opened;
			return;
		}
		if (await this.#read(entry.path)) this.opened = new Set(this.opened).add(entry.path);
	}

	async refresh(): Promise<void> {
		await Promise.all([...new Set(['/', ...this.opened])].map((folder) => this.#read(folder)));
	}

	async send(files: File[], folder = this.folder): Promise<void> {
		for (const file of files) {
			this.uploads.push({ name: file.name, part: 0, problem: null });
			const shown = this.uploads[this.uploads.length - 1];
			if (!shown) continue;
			try {
				await upload(this.id, join(folder, file.name), file, (part) => (shown.part = part));
				this.uploads = this.uploads.filter((one) => one !== shown);
				toasts.good(`Uploaded ${file.name} to ${folder}`);
			} catch (error) {
				shown.problem = describe(error);
			}
			await this.#read(folder);
		}
		this.opened = new Set(this.opened).add(folder);
	}

	async folderIn(name: string): Promise<void> {
		const { folder } = this;
		await makeFolder(this.id, join(folder, name));
		await this.#read(folder);
		this.opened = new Set(this.opened).add(folder);
	}

	async remove(entry: FileEntry): Promise<void> {
		await removeFile(this.id, entry.path);
		if (this.chosen?.path === entry.path) this.chosen = null;
		await this.#read(parent(entry.path));
	}

	async rename(entry: FileEntry, name: string): Promise<void> {
		const folder = parent(entry.path);
		await moveFile(this.id, entry.path, join(folder, name));
		await this.#read(folder);
		this.chosen = this.known.get(folder)?.find((one) => baseName(one.path) === name) ?? null;
	}

	dismiss(upload: Upload): void {
		this.uploads = this.uploads.filter((one) => one !== upload);
	}

	async #read(folder: string): Promise<boolean> {
		try {
			const entries = await listFiles(this.id, folder);
			this.known = new Map(this.known).set(folder, inOrder(entries));
			this.problem = null;
			return true;
		} catch (error) {
			this.problem = describe(error);
			return false;
		}
	}
}
