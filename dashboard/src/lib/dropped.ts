// What is dropped onto a page: files, and all files in folders.

export interface Sent {
	/** Below the folder that it goes to. */
	path: string;
	file: File;
}

/** Of one drop. What has more is better packed first. */
const MOST = 5000;

export const asSent = (files: Iterable<File>): Sent[] =>
	[...files].map((file) => ({ path: file.name, file }));

export async function dropped(transfer: DataTransfer): Promise<Sent[]> {
	// Taken before anything is waited for: then it is empty.
	const items = [...transfer.items]
		.filter(({ kind }) => kind === 'file')
		.map((item) => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }));
	const all: Sent[] = [];
	for (const { entry, file } of items) {
		if (entry?.isDirectory) await walk(entry as FileSystemDirectoryEntry, all);
		else if (file) all.push({ path: file.name, file });
	}
	return all;
}

async function walk(folder: FileSystemDirectoryEntry, into: Sent[]): Promise<void> {
	const reader = folder.createReader();
	for (;;) {
		// Some at a time, until there are none.
		const some = await new Promise<FileSystemEntry[]>((take, fail) => reader.readEntries(take, fail));
		if (some.length === 0) return;
		for (const entry of some) {
			if (into.length >= MOST)
				throw new Error(`These are more than ${MOST.toLocaleString('en')} files: pack them first.`);
			if (entry.isDirectory) await walk(entry as FileSystemDirectoryEntry, into);
			else {
				const file = await new Promise<File>((take, fail) => (entry as FileSystemFileEntry).file(take, fail));
				into.push({ path: entry.fullPath.replace(/^\//, ''), file });
			}
		}
	}
}
