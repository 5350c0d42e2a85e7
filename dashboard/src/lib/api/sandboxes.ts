import { request } from './client';
import type { CreateSandbox, Page, Sandbox, SandboxEvent, Template } from './types';

const at = (id: string, rest = '') => `/v1/sandboxes/${encodeURIComponent(id)}${rest}`;

/** Every sandbox of the team that is not stopped, page by page. */
export async function listSandboxes(signal?: AbortSignal): Promise<Sandbox[]> {
	const all: Sandbox[] = [];
	let cursor: string | undefined;
	do {
		const page: Page<Sandbox> = await request('GET', '/v1/sandboxes', {
			query: { limit: 1000, cursor },
			signal
		});
		all.push(...page.items);
		cursor = page.next_cursor ?? undefined;
	} while (cursor);
	return all;
}

export const getSandbox = (id: string, signal?: AbortSignal) => request<Sandbox>('GET', at(id), { signal });

export const createSandbox = (spec: CreateSandbox, idempotencyKey: string) =>
	request<Sandbox>('POST', '/v1/sandboxes', { body: spec, idempotencyKey });

export const pauseSandbox = (id: string) => request<Sandbox>('POST', at(id, '/pause'));
export const resumeSandbox = (id: string) => request<Sandbox>('POST', at(id, '/resume'));
export const destroySandbox = (id: string) => request<undefined>('DELETE', at(id));

export const sandboxEvents = (id: string, signal?: AbortSignal) =>
	request<Page<SandboxEvent>>('GET', at(id, '/events'), { signal });

export const listTemplates = () => request<Page<Template>>('GET', '/v1/templates');
