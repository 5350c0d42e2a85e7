import { all, request } from './client';
import type { ApiKey, NewKey } from './types';

export const listKeys = (signal?: AbortSignal) => all<ApiKey>('GET /v1/api-keys', { signal });
/** The answer alone holds the key itself. */
export const createKey = (spec: NewKey, idempotencyKey: string) =>
	request<ApiKey>('POST /v1/api-keys', { body: spec, idempotencyKey });
export const deleteKey = (id: string) => request<undefined>('DELETE /v1/api-keys/{id}', { path: { id } });
