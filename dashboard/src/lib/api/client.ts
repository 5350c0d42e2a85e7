// The one way to the API. Knows how to ask and how to fail; what can be asked is in the files beside it.
//
// The session is a cookie that no script can read. What changes something bears the session's CSRF token, which lives in
// this page's memory alone.
import { ApiError, fromAnswer, unreachable } from './errors';
import type { Route } from './schema';

export type { Route } from './schema';

export interface Options {
	/** What stands for the `{names}` in the route's path. */
	path?: Record<string, string>;
	/** JSON, or a FormData, Blob or URLSearchParams as it is. */
	body?: unknown;
	query?: Record<string, string | number | boolean | undefined>;
	headers?: Record<string, string>;
	signal?: AbortSignal;
	/** Makes a repeated POST create one thing. */
	idempotencyKey?: string;
	/** The question is who one is: its 401 is an answer and no end of a session. */
	anonymous?: boolean;
}

const AGAIN_MS = 250;

let csrf: string | null = null;
let onUnauthorized: () => Promise<boolean> = () => Promise.resolve(false);

/** The token that changes bear from now on; null for nobody. */
export function setCsrf(token: string | null): void {
	csrf = token;
}

/** For uploads that need to tell how far they are, which fetch can't. */
export function changeHeaders(): Record<string, string> {
	return csrf ? { 'x-csrf-token': csrf } : {};
}

/** What a WebSocket speaks. The browser adds the cookie and the page's origin itself. */
export const SOCKET_PROTOCOL = 'atoll.v1';

/** Called when the server no longer knows who asks. True: it does again, so the question may be asked again. */
export function whenUnauthorized(action: () => Promise<boolean>): void {
	onUnauthorized = action;
}

/** Asks, and gives the answer's body. Fails with an ApiError. */
export async function request<T>(route: Route, options: Options = {}): Promise<T> {
	const answer = await open(route, options);
	return parse(await answer.text()) as T;
}

/** Asks, and gives the answer, whose body is still to be read. Fails with an ApiError. */
export async function open(route: Route, options: Options = {}): Promise<Response> {
	const answer = await ask(route, options);
	if (answer.ok) return answer;
	if (answer.status === 401 && !options.anonymous && csrf && (await onUnauthorized())) {
		const second = await ask(route, options);
		if (second.ok) return second;
		throw fromAnswer(second.status, parse(await second.text()), second.headers.get('retry-after'));
	}
	throw fromAnswer(answer.status, parse(await answer.text()), answer.headers.get('retry-after'));
}

/** Where a route is. */
export function address(route: Route, options: Pick<Options, 'path' | 'query'> = {}): string {
	const path = fill(route.slice(route.indexOf(' ') + 1), options.path ?? {});
	const query = new URLSearchParams();
	for (const [name, value] of Object.entries(options.query ?? {})) {
		if (value !== undefined && value !== '') query.set(name, String(value));
	}
	return query.size > 0 ? `${path}?${query}` : path;
}

async function ask(route: Route, options: Options): Promise<Response> {
	const method = route.slice(0, route.indexOf(' '));
	const headers: Record<string, string> = { accept: 'application/json', ...options.headers };
	if (method !== 'GET') Object.assign(headers, changeHeaders());
	const raw =
		options.body instanceof FormData ||
		options.body instanceof Blob ||
		options.body instanceof URLSearchParams;
	if (options.body !== undefined && !raw) headers['content-type'] = 'application/json';
	if (options.idempotencyKey) headers['idempotency-key'] = options.idempotencyKey;
	let body: BodyInit | undefined;
	if (options.body !== undefined) body = raw ? (options.body as BodyInit) : JSON.stringify(options.body);
	const send = () =>
		fetch(address(route, options), {
			method,
			headers,
			body,
			signal: options.signal,
			credentials: 'same-origin'
		});
	// Another network, a connection that was kept open too long: what does nothing twice is asked once more.
	let again = method === 'GET' || options.idempotencyKey !== undefined;
	for (;;) {
		try {
			return await send();
		} catch (cause) {
			if (options.signal?.aborted) throw cause;
			if (!again) throw unreachable();
		}
		again = false;
		await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
		options.signal?.throwIfAborted();
	}
}

/** Every item of a list, page by page. */
export async function all<T>(route: Route, options: Options = {}): Promise<T[]> {
	const items: T[] = [];
	let cursor: string | undefined;
	do {
		const page: { items: T[]; next_cursor?: string | null } = await request(route, {
			...options,
			query: { limit: 1000, ...options.query, cursor }
		});
		items.push(...page.items);
		cursor = page.next_cursor ?? undefined;
	} while (cursor);
	return items;
}

export function fill(pattern: string, values: Record<string, string>): string {
	return pattern.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(values[name] ?? ''));
}

function parse(text: string): unknown {
	if (text === '') return undefined;
	try {
		return JSON.parse(text);
	} catch {
		return undefined;
	}
}

export function isNotFound(error: unknown): boolean {
	return error instanceof ApiError && error.status === 404;
}
