import { all, request } from './client';
import type { DeviceLoginDetail, Invitation, InvitationDetail, Role, SignedIn } from './types';

export const listInvitations = (team: string, signal?: AbortSignal) =>
	all<Invitation>('GET /v1/teams/{id}/invitations', { path: { id: team }, signal });
export const invite = (team: string, email: string, role: Role) =>
	request<Invitation>('POST /v1/teams/{id}/invitations', { path: { id: team }, body: { email, role } });
export const withdraw = (team: string, invitation: string) =>
	request<undefined>('DELETE /v1/teams/{id}/invitations/{invitation}', { path: { id: team, invitation } });

/** What the holder of an invitation may know. */
export const lookAtInvitation = (token: string, signal?: AbortSignal) =>
	request<InvitationDetail>('GET /v1/invitations/{token}', { path: { token }, anonymous: true, signal });
/** A new person says who they are; somebody who is signed in says nothing. */
export const acceptInvitation = (token: string, person: { name?: string; password?: string }) =>
	request<Partial<SignedIn> & { team_id: string }>('POST /v1/invitations/{token}/accept', {
		path: { token },
		body: person,
		headers: { 'x-session': 'cookie' },
		anonymous: true
	});

export const askForReset = (email: string) =>
	request<undefined>('POST /v1/auth/password/reset', { body: { email }, anonymous: true });
export const setNewPassword = (token: string, password: string) =>
	request<undefined>('POST /v1/auth/password/reset/confirm', { body: { token, password }, anonymous: true });

/** A program that waits to be let in. */
export const lookAtDevice = (code: string, signal?: AbortSignal) =>
	request<DeviceLoginDetail>('GET /v1/auth/device', { query: { code }, signal });
export const decideDevice = (user_code: string, approve: boolean) =>
	request<undefined>('POST /v1/auth/device/decision', { body: { user_code, approve } });
