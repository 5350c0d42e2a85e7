import { expect, it } from 'vitest';

import type { FileEntry } from '$api/types';

import { ancestors, asText, imageType, inOrder, join, modeText, parent, rows } from './tree';

const entry = (path: string, type: FileEntry['type'] = 'file') =>
	({ path, name: path.slice(path.lastIndexOf('/') + 1), type }) as FileEntry;

it('puts folders first, and file10 after file9', () =>
	expect(
		inOrder([entry('/file10'), entry('/z', 'directory'), entry('/file9')]).map(({ name }) => name)
	).toEqual(['z', 'file9', 'file10']));

it('shows what is in opened folders, deeper', () => {
	const known = new Map([
		['/', [entry('/a', 'directory'), entry('/b')]],
		['/a', [entry('/a/c')]]
	]);
	expect(rows(known, new Set(), '/').map((row) => row.entry.path)).toEqual(['/a', '/b']);
	expect(rows(known, new Set(['/a']), '/').map((row) => [row.entry.path, row.depth])).toEqual([
		['/a', 0],
		['/a/c', 1],
		['/b', 0]
	]);
});

it('says which of how many in its folder a row is, also of 200,000', () => {
	const many = Array.from({ length: 200_000 }, (_, at) => entry(`/a/${at}`));
	const known = new Map([
		['/', [entry('/a', 'directory'), entry('/b')]],
		['/a', many]
	]);
	const all = rows(known, new Set(['/a']), '/');
	expect(all.length).toBe(200_002);
	expect(all.at(-1)).toMatchObject({ place: 2, size: 2 });
	expect(all.at(-2)).toMatchObject({ place: 200_000, size: 200_000 });
});

it('takes paths apart and together', () => {
	expect(join('/', 'x')).toBe('/x');
	expect(join('/a', 'x')).toBe('/a/x');
	expect(parent('/a/x')).toBe('/a');
	expect(parent('/a')).toBe('/');
	expect(ancestors('/home/user')).toEqual(['/', '/home', '/home/user']);
});

it('tells text from other bytes, also when a letter is cut at the end', () => {
	const letters = new TextEncoder().encode('grün ü');
	expect(asText(letters)).toBe('grün ü');
	expect(asText(letters.subarray(0, letters.length - 1))).toBe('grün ');
	expect(asText(new Uint8Array([1, 0, 2]))).toBeNull();
	expect(asText(new Uint8Array([0xff, 0xfe, 0xfd, 0xfc, 0xfb]))).toBeNull();
});

it('knows pictures by their names, and writes modes', () => {
	expect(imageType('a.PNG')).toBe('image/png');
	expect(imageType('a.txt')).toBeNull();
	expect(modeText(0o754)).toBe('rwxr-xr--');
});
