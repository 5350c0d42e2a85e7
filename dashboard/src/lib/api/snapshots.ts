import { all, request } from './client';
import type { ForkResponse, Snapshot } from './types';

export const listSnapshots = (signal?: AbortSignal) => all<Snapshot>('GET /v1/snapshots', { signal });
export const createSnapshot = (sandbox_id: string, name: string, idempotencyKey: string) =>
	request<Snapshot>('POST /v1/snapshots', {
		body: { sandbox_id, ...(name ? { name } : {}) },
		idempotencyKey
	});
export const deleteSnapshot = (name: string) =>
	request<undefined>('DELETE /v1/snapshots/{name}', { path: { name } });
export const forkSandbox = (id: string, count: number, idempotencyKey: string) =>
	request<ForkResponse>('POST /v1/sandboxes/{id}/fork', { path: { id }, body: { count }, idempotencyKey });
