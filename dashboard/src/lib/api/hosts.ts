import { all, request } from './client';
import type {
	CreatedHost,
	CreateHost,
	Host,
	HostDeletePreview,
	HostDrain,
	HostTags,
	RegistrationToken
} from './types';

export const listHosts = (signal?: AbortSignal) => all<Host>('GET /v1/hosts', { signal });
export const listAllHosts = (signal?: AbortSignal) => all<Host>('GET /v1/admin/hosts', { signal });
export const getHost = (id: string, signal?: AbortSignal) =>
	request<Host>('GET /v1/hosts/{id}', { path: { id }, signal });
export const createHost = (spec: CreateHost, idempotencyKey: string) =>
	request<CreatedHost>('POST /v1/hosts', { body: spec, idempotencyKey });
export const renameHost = (id: string, name: string) =>
	request<Host>('PATCH /v1/hosts/{id}', { path: { id }, body: { name } });
export const deleteHost = (id: string, force: boolean) =>
	request<undefined>('DELETE /v1/hosts/{id}', { path: { id }, query: { force: force || undefined } });
export const previewDeletion = (id: string, signal?: AbortSignal) =>
	request<HostDeletePreview>('GET /v1/hosts/{id}/delete-preview', { path: { id }, signal });
export const newToken = (id: string) =>
	request<RegistrationToken>('POST /v1/hosts/{id}/token', { path: { id } });
/** How far a host that is drained has come. */
export const drainOf = (id: string, signal?: AbortSignal) =>
	request<HostDrain>('GET /v1/hosts/{id}/drain', { path: { id }, signal });
export const drainHost = (id: string) => request<Host>('POST /v1/hosts/{id}/drain', { path: { id } });
export const undrainHost = (id: string) => request<Host>('POST /v1/hosts/{id}/undrain', { path: { id } });

export const addTags = async (id: string, tags: string[]) =>
	(await request<HostTags>('POST /v1/hosts/{id}/tags', { path: { id }, body: { tags } })).tags;
export const removeTag = (id: string, tag: string) =>
	request<undefined>('DELETE /v1/hosts/{id}/tags', { path: { id }, query: { tag } });
