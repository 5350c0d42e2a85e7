import { request } from './client';
import type { Activity, Usage } from './types';

/** Per day (UTC), and what the team has and may have now. */
export const getUsage = (from: string, signal?: AbortSignal) =>
	request<Usage>('GET /v1/usage', { query: { from }, signal });

/** How many sandboxes ran at once, and how many started, over the last days (30 at most). */
export const getActivity = (days: number, signal?: AbortSignal) =>
	request<Activity>('GET /v1/usage/activity', { query: { range: `${days}d` }, signal });
