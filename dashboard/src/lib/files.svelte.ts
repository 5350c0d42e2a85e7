// The files of one sandbox as the page shows them: what was opened, what is chosen, what is on its way up.
import { describe } from '$api/errors';
import { listFiles, makeFolder, moveFile, removeFile, upload } from '$api/files';
import type { FileEntry } from '$api/types';

import type { Sent } from './dropped';
import { toasts } from './toasts.svelte';
import { ancestors, baseName, inOrder, join, parent, rows } from './tree';

/** Files that go up one after the other. */
export interface Upload {
	/** The one that does now, */
	name: string;
	/** which of them it is, */
	at: number;
	count: number;
	/** and how much of it is there. */
	part: number;
	problem: string | null;
	stop: () => void;
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

	/** The names in a folder that these would replace, or go into. */
	async taken(sent: Sent[], folder: string): Promise<string[]> {
		if (!this.known.has(folder)) await this.#read(folder);
		const there = new Set(this.known.get(folder)?.map(({ name }) => name));
		return [...new Set(sent.map(({ path }) => path.split('/')[0] ?? ''))].filter((name) => there.has(name));
	}

	/** One after the other; the first that fails is the last. */
	async send(sent: Sent[], folder = this.folder): Promise<void> {
		if (sent.length === 0) return;
		const abort = new AbortController();
		this.uploads.push({
			name: '',
			at: 0,
			count: sent.length,
			part: 0,
			problem: null,
			stop: () => abort.abort()
		});
		const shown = this.uploads.at(-1);
		if (!shown) return;
		try {
			for (const { path, file } of sent) {
				Object.assign(shown, { name: path, at: shown.at + 1, part: 0 });
				await upload(this.id, join(folder, path), file, (part) => (shown.part = part), abort.signal);
			}
			toasts.good(`Uploaded ${sent.length === 1 ? sent[0]?.path : `${sent.length} files`} to ${folder}`);
		} catch (error) {
			if (!abort.signal.aborted) shown.problem = describe(error);
		}
		if (!shown.problem) this.dismiss(shown);
		const below = sent.map(({ path }) => parent(join(folder, path)));
		const changed = [...new Set([folder, ...below])].filter((one) => one === folder || this.known.has(one));
		await Promise.all(changed.map((one) => this.#read(one)));
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
