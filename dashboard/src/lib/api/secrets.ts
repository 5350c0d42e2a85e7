import { all, request } from './client';
import type { Secret } from './types';

/** Their names: no route reads a value. */
export const listSecrets = (signal?: AbortSignal) => all<Secret>('GET /v1/secrets', { signal });
export const setSecret = (name: string, value: string, overwrite: boolean, idempotencyKey: string) =>
	request<Secret>('POST /v1/secrets', {
		body: { name, value },
		query: { overwrite: overwrite || undefined },
		idempotencyKey
	});
export const deleteSecret = (name: string) =>
	request<undefined>('DELETE /v1/secrets/{name}', { path: { name } });
