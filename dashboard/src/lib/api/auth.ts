import { request } from './client';
import type { Me, SignedIn } from './types';

export const login = (email: string, password: string) =>
	request<SignedIn>('POST /v1/auth/login', { body: { email, password } });

export const logout = () => request<undefined>('POST /v1/auth/logout');

export const me = () => request<Me>('GET /v1/me');
