// The one way to the API. Knows how to ask and how to fail; what can be asked is in the files beside it.
import { ApiError, fromAnswer, unreachable } from './errors';
import type { Route } from './schema';

interface Options {
	/** What stands for the `{names}` in the route's path. */
	path?: Record<string, string>;
	body?: unknown;
	query?: Record<string, string | number | undefined>;
	signal?: AbortSignal;
	/** Makes a repeated POST create one thing. */
	idempotencyKey?: string;
}

let bearer: string | null = null;
/** What a WebSocket offers as protocols: a page can't set other headers, and an address would end up in logs. */
export function socketProtocols(): string[] {
	return bearer ? ['atoll.v1', `atoll.bearer.${bearer}`] : ['atoll.v1'];
}

let onUnauthorized: () => void = () => undefined;

/** Who asks from now on; null for nobody. */
export function setBearer(token: string | null): void {
	bearer = token;
}

/** Called when the server no longer knows who asks. */
export function whenUnauthorized(action: () => void): void {
	onUnauthorized = action;
}

/** Asks, and gives the answer's body. Fails with an ApiError. */
export async function request<T>(route: Route, options: Options = {}): Promise<T> {
	const [method, pattern] = route.split(' ') as [string, string];
	const path = fill(pattern, options.path ?? {});
	const headers: Record<string, string> = { accept: 'application/json' };
	if (bearer) headers.authorization = `Bearer ${bearer}`;
	if (options.body !== undefined) headers['content-type'] = 'application/json';
	if (options.idempotencyKey) headers['idempotency-key'] = options.idempotencyKey;
	const query = new URLSearchParams();
	for (const [name, value] of Object.entries(options.query ?? {})) {
		if (value !== undefined && value !== '') query.set(name, String(value));
	}
	const address = query.size > 0 ? `${path}?${query}` : path;
	let answer: Response;
	try {
		answer = await fetch(address, {
			method,
			headers,
			body: options.body === undefined ? undefined : JSON.stringify(options.body),
			signal: options.signal,
			credentials: 'same-origin'
		});
	} catch (cause) {
		if (options.signal?.aborted) throw cause;
		throw unreachable();
	}
	const text = await answer.text();
	const body = parse(text);
	if (answer.ok) return body as T;
	const error = fromAnswer(answer.status, body, answer.headers.get('retry-after'));
	if (answer.status === 401 && bearer) onUnauthorized();
	throw error;
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
