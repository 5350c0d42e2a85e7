import { all, request } from './client';
import type { CreateVolume, Volume } from './types';

export const listVolumes = (signal?: AbortSignal) => all<Volume>('GET /v1/volumes', { signal });
export const createVolume = (spec: CreateVolume, idempotencyKey: string) =>
	request<Volume>('POST /v1/volumes', { body: spec, idempotencyKey });
export const deleteVolume = (name: string) =>
	request<undefined>('DELETE /v1/volumes/{name}', { path: { name } });
