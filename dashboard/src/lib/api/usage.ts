import { request } from './client';
import type { Usage } from './types';

/** Per day (UTC), and what the team has and may have now. */
export const getUsage = (from: string, signal?: AbortSignal) =>
	request<Usage>('GET /v1/usage', { query: { from }, signal });
