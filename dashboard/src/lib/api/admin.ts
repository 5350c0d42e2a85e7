import { all, request } from './client';
import type { AdminSandbox, AdminTeam, AdminUser, ResetLink } from './types';

export const adminTeams = (signal?: AbortSignal) => all<AdminTeam>('GET /v1/admin/teams', { signal });
export const adminUsers = (signal?: AbortSignal) => all<AdminUser>('GET /v1/admin/users', { signal });
export const adminSandboxes = (signal?: AbortSignal) =>
	all<AdminSandbox>('GET /v1/admin/sandboxes', { signal });

/** Whether the team may bring its own hosts. */
export const setByoc = (id: string, enabled: boolean) =>
	request<undefined>('PUT /v1/admin/teams/{id}/byoc', { path: { id }, body: { enabled } });
export const setActive = (id: string, enabled: boolean) =>
	request<undefined>('PUT /v1/admin/users/{id}/active', { path: { id }, body: { enabled } });
export const setAdmin = (id: string, enabled: boolean) =>
	request<undefined>('PUT /v1/admin/users/{id}/admin', { path: { id }, body: { enabled } });
/** A person, with the link by which they set their first password. */
export const createUser = (email: string, name: string) =>
	request<ResetLink>('POST /v1/admin/users', { body: { email, name } });
export const resetLink = (id: string) =>
	request<ResetLink>('POST /v1/admin/users/{id}/password-reset', { path: { id } });
