import { address, changeHeaders, open, request } from './client';
import { fromAnswer, unreachable } from './errors';
import type { FileEntry, FileList } from './types';

export const listFiles = async (id: string, path: string, signal?: AbortSignal): Promise<FileEntry[]> =>
	(await request<FileList>('POST /v1/sandboxes/{id}/files/list', { path: { id }, body: { path }, signal }))
		.items;

export const makeFolder = (id: string, path: string) =>
	request<undefined>('POST /v1/sandboxes/{id}/files/mkdir', { path: { id }, body: { path } });
export const removeFile = (id: string, path: string) =>
	request<undefined>('POST /v1/sandboxes/{id}/files/remove', { path: { id }, body: { path } });
export const moveFile = (id: string, source: string, destination: string) =>
	request<undefined>('POST /v1/sandboxes/{id}/files/move', { path: { id }, body: { source, destination } });

/** Where a file can be downloaded from by the browser itself, of any size. */
export const fileAddress = (id: string, path: string) =>
	address('GET /v1/sandboxes/{id}/files/stream/read', { path: { id }, query: { path } });

/** The beginning of a file: at most so many bytes. */
export async function readStart(
	id: string,
	path: string,
	bytes: number,
	signal?: AbortSignal
): Promise<Uint8Array> {
	const answer = await open('GET /v1/sandboxes/{id}/files/stream/read', {
		path: { id },
		query: { path },
		headers: { accept: '*/*' },
		signal
	});
	const reader = answer.body?.getReader();
	const parts: Uint8Array[] = [];
	let count = 0;
	while (reader && count < bytes) {
		const { done, value } = await reader.read();
		if (done) break;
		parts.push(value);
		count += value.length;
	}
	void reader?.cancel();
	const all = new Uint8Array(Math.min(count, bytes));
	let at = 0;
	for (const part of parts) {
		all.set(part.subarray(0, all.length - at), at);
		at = Math.min(all.length, at + part.length);
	}
	return all;
}

/** Uploads a file, and tells how far it is (0 to 1), which fetch can't. */
export function upload(
	id: string,
	path: string,
	file: Blob,
	progress: (part: number) => void,
	signal: AbortSignal
): Promise<void> {
	return new Promise((resolve, reject) => {
		const ask = new XMLHttpRequest();
		const where = address('POST /v1/sandboxes/{id}/files/stream/write', { path: { id }, query: { path } });
		ask.open('POST', where);
		for (const [name, value] of Object.entries(changeHeaders())) ask.setRequestHeader(name, value);
		ask.setRequestHeader('content-type', 'application/octet-stream');
		ask.upload.addEventListener('progress', (event) => {
			if (event.lengthComputable && event.total > 0) progress(event.loaded / event.total);
		});
		ask.addEventListener('load', () => {
			if (ask.status < 300) return resolve();
			let body: unknown;
			try {
				body = JSON.parse(ask.responseText);
			} catch {
				body = undefined;
			}
			reject(fromAnswer(ask.status, body, ask.getResponseHeader('retry-after')));
		});
		ask.addEventListener('error', () => reject(unreachable()));
		ask.addEventListener('abort', () => reject(new DOMException('It was stopped.', 'AbortError')));
		signal.addEventListener('abort', () => ask.abort());
		ask.send(file);
	});
}
