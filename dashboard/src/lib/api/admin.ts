import { request } from './client';
import type { AdminSandbox, AdminTeam, AdminUser, CountedPage, Quotas, ResetLink, SetQuotas } from './types';

const PAGE = 200;
type Query = Record<string, string | boolean | undefined>;

export const adminTeams = (query: Query, cursor?: string, signal?: AbortSignal) =>
	request<CountedPage<AdminTeam>>('GET /v1/admin/teams', {
		query: { limit: PAGE, ...query, cursor },
		signal
	});
export const adminUsers = (query: Query, cursor?: string, signal?: AbortSignal) =>
	request<CountedPage<AdminUser>>('GET /v1/admin/users', {
		query: { limit: PAGE, ...query, cursor },
		signal
	});
export const adminSandboxes = (query: Query, cursor?: string, signal?: AbortSignal) =>
	request<CountedPage<AdminSandbox>>('GET /v1/admin/sandboxes', {
		query: { limit: PAGE, ...query, cursor },
		signal
	});
/** How many there are of something: the total of a page of one. */
export const countOf = async (
	route: 'GET /v1/admin/teams' | 'GET /v1/admin/users' | 'GET /v1/admin/sandboxes',
	query: Query,
	signal?: AbortSignal
) => (await request<CountedPage<unknown>>(route, { query: { ...query, limit: 1 }, signal })).total;

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

/** What a team takes, and may take. */
export const teamQuotas = (id: string, signal?: AbortSignal) =>
	request<Quotas>('GET /v1/admin/teams/{id}/quotas', { path: { id }, signal });
/** All limits at once: what is null is the installation's default. */
export const setTeamQuotas = (id: string, limits: SetQuotas) =>
	request<Quotas>('PUT /v1/admin/teams/{id}/quotas', { path: { id }, body: limits });
