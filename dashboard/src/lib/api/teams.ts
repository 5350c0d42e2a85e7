import { all, request } from './client';
import type { Member, Role, SignedIn, Team } from './types';

export const listTeams = (signal?: AbortSignal) => all<Team>('GET /v1/teams', { signal });

/** Acts in another of one's teams from now on. */
export const switchTeam = (team_id: string) =>
	request<SignedIn>('POST /v1/auth/switch-team', { body: { team_id }, headers: { 'x-session': 'cookie' } });

export const createTeam = (name: string, idempotencyKey: string) =>
	request<Team>('POST /v1/teams', { body: { name }, idempotencyKey });

export const renameTeam = (id: string, name: string) =>
	request<Team>('PATCH /v1/teams/{id}', { path: { id }, body: { name } });
export const deleteTeam = (id: string) => request<undefined>('DELETE /v1/teams/{id}', { path: { id } });
export const leaveTeam = (id: string) => request<undefined>('POST /v1/teams/{id}/leave', { path: { id } });

export const listMembers = (id: string, signal?: AbortSignal) =>
	all<Member>('GET /v1/teams/{id}/members', { path: { id }, signal });
/** Somebody who has an account. */
export const addMember = (id: string, email: string, role: Role) =>
	request<Member>('POST /v1/teams/{id}/members', { path: { id }, body: { email, role } });
export const setRole = (id: string, user_id: string, role: Role) =>
	request<Member>('PATCH /v1/teams/{id}/members/{user_id}', { path: { id, user_id }, body: { role } });
export const removeMember = (id: string, user_id: string) =>
	request<undefined>('DELETE /v1/teams/{id}/members/{user_id}', { path: { id, user_id } });
