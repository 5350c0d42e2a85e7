// What a sandbox may reach, as people choose it: one of four ways, and a list. The API's rules are made of it and back.
import type { NetworkPolicy, Sandbox } from '$api/types';

import { bytes } from './size';

export type Way = 'open' | 'except' | 'only' | 'closed';
export interface Reach {
	way: Way;
	/** Networks and names, separated by spaces or lines. */
	list: string;
}

export const WAYS: { value: Way; label: string; note: string }[] = [
	{ value: 'open', label: 'The internet', note: 'Not private networks, nor other sandboxes' },
	{ value: 'except', label: 'All but these', note: 'The internet without what you name' },
	{ value: 'only', label: 'Only these', note: 'Nothing but what you name' },
	{ value: 'closed', label: 'Nothing', note: 'All ways out are closed' }
];

const EVERYTHING = '0.0.0.0/0';
const words = (text: string) => [...new Set(text.split(/[\s,]+/).filter(Boolean))];

export function toRules({
	way,
	list
}: Reach): { internet: boolean } & Required<Pick<NetworkPolicy, 'allow_out' | 'deny_out'>> {
	return {
		internet: way !== 'closed',
		allow_out: way === 'only' ? words(list) : [],
		deny_out: way === 'only' ? [EVERYTHING] : way === 'except' ? words(list) : []
	};
}

/** Null where the rules are none of the four ways: both lists say something, made by a program. */
export function fromRules(sandbox: Pick<Sandbox, 'internet' | 'network'>): Reach | null {
	const allow = sandbox.network?.allow_out ?? [];
	const deny = sandbox.network?.deny_out ?? [];
	if (sandbox.internet === false) return { way: 'closed', list: '' };
	if (deny.length === 1 && deny[0] === EVERYTHING) return { way: 'only', list: allow.join('\n') };
	if (allow.length > 0) return null;
	return deny.length > 0 ? { way: 'except', list: deny.join('\n') } : { way: 'open', list: '' };
}

/** Which headers requests to which names get, in a few words; nothing where none do. */
export function headersText(sandbox: Pick<Sandbox, 'network'>): string {
	const headers = sandbox.network?.headers ?? [];
	const words = headers.slice(0, 2).map((header) => `${header.name} to ${header.domain}`);
	return words.join(', ') + (headers.length > 2 ? ` and ${headers.length - 2} more` : '');
}

/** How fast it may send and get, in a few words; nothing where it has no bound of its own. */
export function bandwidthText(sandbox: Pick<Sandbox, 'network'>): string {
	const rate = sandbox.network?.bandwidth_bytes_per_second;
	return rate ? `${bytes(rate)} a second each way` : '';
}

/** In a few words. */
export function reachText(sandbox: Pick<Sandbox, 'internet' | 'network'>): string {
	const reach = fromRules(sandbox);
	if (!reach) return 'by rules of its own';
	const names = words(reach.list);
	const these = names.slice(0, 2).join(', ') + (names.length > 2 ? ` and ${names.length - 2} more` : '');
	if (reach.way === 'closed') return 'nothing';
	if (reach.way === 'only') return names.length > 0 ? `only ${these}` : 'nothing';
	return reach.way === 'except' ? `the internet but ${these}` : 'the internet';
}
