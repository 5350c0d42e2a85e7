// What a list shows: kept in the address, so that it can be shared and survives a reload.
import type { Sandbox, SandboxStatus } from '$api/types';
import { STATUSES } from '$lib/status';

export interface Filter {
	text: string;
	status: SandboxStatus | null;
}

export function fromAddress(query: URLSearchParams): Filter {
	const status = query.get('status');
	return {
		text: query.get('q') ?? '',
		status: STATUSES.find((known) => known === status) ?? null
	};
}

export function toAddress(filter: Filter): string {
	const query = new URLSearchParams();
	if (filter.text) query.set('q', filter.text);
	if (filter.status) query.set('status', filter.status);
	return query.size > 0 ? `?${query}` : '?';
}

/** Every word must be somewhere in the id, template, host or labels (`name=value`). */
export function matches(sandbox: Sandbox, filter: Filter): boolean {
	if (filter.status && sandbox.status !== filter.status) return false;
	const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
	if (words.length === 0) return true;
	const labels = Object.entries(sandbox.metadata ?? {}).map(([name, value]) => `${name}=${value}`);
	const text = [sandbox.id, `i${sandbox.id.slice(3)}`, sandbox.template, sandbox.host_id ?? '', ...labels]
		.join('\n')
		.toLowerCase();
	return words.every((word) => text.includes(word));
}
