import { request } from './client';
import type { CreateSandbox, Page, Sandbox, SandboxEvent, Template } from './types';

/** Every sandbox of the team that is not stopped, page by page. */
export async function listSandboxes(signal?: AbortSignal): Promise<Sandbox[]> {
	const all: Sandbox[] = [];
	let cursor: string | undefined;
	do {
		const page: Page<Sandbox> = await request('GET /v1/sandboxes', {
			query: { limit: 1000, cursor },
			signal
		});
		all.push(...page.items);
		cursor = page.next_cursor ?? undefined;
	} while (cursor);
	return all;
}

export const getSandbox = (id: string, signal?: AbortSignal) =>
	request<Sandbox>('GET /v1/sandboxes/{id}', { path: { id }, signal });

export const createSandbox = (spec: CreateSandbox, idempotencyKey: string) =>
	request<Sandbox>('POST /v1/sandboxes', { body: spec, idempotencyKey });

export const pauseSandbox = (id: string) =>
	request<Sandbox>('POST /v1/sandboxes/{id}/pause', { path: { id } });
export const resumeSandbox = (id: string) =>
	request<Sandbox>('POST /v1/sandboxes/{id}/resume', { path: { id } });
export const destroySandbox = (id: string) =>
	request<undefined>('DELETE /v1/sandboxes/{id}', { path: { id } });

export const sandboxEvents = (id: string, signal?: AbortSignal) =>
	request<Page<SandboxEvent>>('GET /v1/sandboxes/{id}/events', { path: { id }, signal });

export const listTemplates = () => request<Page<Template>>('GET /v1/templates', { query: { limit: 1000 } });
