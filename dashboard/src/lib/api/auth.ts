import { all, request } from './client';
import type { AuthConfig, BrowserSession, EndedSessions, Me, SignedIn } from './types';

const COOKIE = { 'x-session': 'cookie' };

export const login = (email: string, password: string) =>
	request<SignedIn>('POST /v1/auth/login', {
		body: { email, password },
		headers: COOKIE,
		anonymous: true
	});

export const logout = () => request<undefined>('POST /v1/auth/logout', { anonymous: true });

export const me = () => request<Me>('GET /v1/me', { anonymous: true });

/** Makes the first admin of a fresh installation. */
export const setup = (token: string, email: string, password: string) =>
	request<SignedIn>('POST /v1/auth/setup', {
		body: { token, email, password },
		headers: COOKIE,
		anonymous: true
	});

/** What a page for signing in needs to know. */
export const authConfig = (signal?: AbortSignal) =>
	request<AuthConfig>('GET /v1/auth/config', { anonymous: true, signal });

export const signup = (person: { email: string; password: string; name: string; invitation?: string }) =>
	request<SignedIn>('POST /v1/auth/signup', { body: person, headers: COOKIE, anonymous: true });

export const renameMe = (name: string) => request<Me>('PATCH /v1/me', { body: { name } });
export const changePassword = (current_password: string | null, new_password: string) =>
	request<undefined>('POST /v1/me/password', { body: { current_password, new_password } });
export const listSessions = (signal?: AbortSignal) => all<BrowserSession>('GET /v1/sessions', { signal });
/** All but the one that asks. Answers how many. */
export const endOtherSessions = async () => (await request<EndedSessions>('DELETE /v1/sessions')).ended;
export const endSession = (id: string) => request<undefined>('DELETE /v1/sessions/{id}', { path: { id } });
