// The files of a sandbox as a tree of which only what was opened is known.
import type { FileEntry } from '$api/types';

export interface Row {
	entry: FileEntry;
	depth: number;
	open: boolean;
	/** Which it is in its folder, from 1, and of how many. */
	place: number;
	size: number;
}

/** Folders first, then by name, as people count. */
export function inOrder(entries: FileEntry[]): FileEntry[] {
	const folder = (entry: FileEntry) => (entry.type === 'directory' ? 0 : 1);
	return entries.toSorted(
		(a, b) => folder(a) - folder(b) || a.name.localeCompare(b.name, 'en', { numeric: true })
	);
}

export function rows(known: Map<string, FileEntry[]>, opened: Set<string>, from: string, depth = 0): Row[] {
	const all: Row[] = [];
	const here = known.get(from) ?? [];
	for (const [index, entry] of here.entries()) {
		const open = entry.type === 'directory' && opened.has(entry.path);
		all.push({ entry, depth, open, place: index + 1, size: here.length });
		// Not by spreading: a folder may have more files than a call may have arguments.
		if (open) for (const row of rows(known, opened, entry.path, depth + 1)) all.push(row);
	}
	return all;
}

export const join = (folder: string, name: string) => `${folder === '/' ? '' : folder}/${name}`;
export const parent = (path: string) => path.slice(0, path.lastIndexOf('/')) || '/';
export const baseName = (path: string) => path.slice(path.lastIndexOf('/') + 1) || '/';

/** Every folder on the way to a path, from the root down. */
export function ancestors(path: string): string[] {
	const parts = path.split('/').filter(Boolean);
	return ['/', ...parts.map((_, at) => `/${parts.slice(0, at + 1).join('/')}`)];
}

const IMAGES: Record<string, string> = {
	png: 'image/png',
	jpg: 'image/jpeg',
	jpeg: 'image/jpeg',
	gif: 'image/gif',
	webp: 'image/webp',
	svg: 'image/svg+xml',
	ico: 'image/x-icon',
	bmp: 'image/bmp'
};

export const imageType = (name: string) =>
	IMAGES[name.slice(name.lastIndexOf('.') + 1).toLowerCase()] ?? null;

/** The text that bytes are, or null when they are none. A letter that was cut at the end does not count. */
export function asText(bytes: Uint8Array): string | null {
	if (bytes.includes(0)) return null;
	for (let cut = 0; cut < 4 && cut <= bytes.length; cut += 1) {
		try {
			return new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, bytes.length - cut));
		} catch {
			// Perhaps the end is in the middle of a letter.
		}
	}
	return null;
}

/** `rwxr-xr-x`. */
export function modeText(mode: number): string {
	return [6, 3, 0]
		.map((shift) => {
			const bits = (mode >> shift) & 7;
			return `${bits & 4 ? 'r' : '-'}${bits & 2 ? 'w' : '-'}${bits & 1 ? 'x' : '-'}`;
		})
		.join('');
}
