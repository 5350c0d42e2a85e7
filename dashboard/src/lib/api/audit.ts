import { request } from './client';
import type { AuditEntry, Page } from './types';

/** Newest first, a page at a time. `everybody`: for platform admins. */
export const listAudit = (
	everybody: boolean,
	query: Record<string, string | undefined>,
	cursor?: string,
	signal?: AbortSignal
) =>
	request<Page<AuditEntry>>(everybody ? 'GET /v1/admin/audit-logs' : 'GET /v1/audit-logs', {
		query: { limit: 100, ...query, cursor },
		signal
	});
