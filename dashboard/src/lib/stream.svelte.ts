// The one event stream. Every live list hangs on it. It comes back by itself after a lost connection, and says then (and
// when the server says `reset`) that what was read before has to be read again.
import { open } from '$api/client';
import { ApiError } from '$api/errors';
import type { Route } from '$api/client';

import { readEvents } from './sse';

export interface Change {
	id: number;
	/** `sandbox.updated`, `host.online`, … */
	type: string;
	team_id?: string | null;
	created_at: string;
	resource?: { kind: string; id: string } | null;
	/** The thing as the API would give it, where the server sends it. */
	object?: unknown;
}

type Listener = (change: Change | 'again') => void;

const EVENTS: Route = 'GET /v1/events';
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;

export class Stream {
	/** Changes arrive. While it is not, lists ask again by themselves. */
	open = $state(false);
	#listeners = new Set<Listener>();
	#abort: AbortController | undefined;
	#timer: ReturnType<typeof setTimeout> | undefined;
	#wait = FIRST_WAIT_MS;
	#last: string | null = null;

	constructor(private readonly scope?: 'platform') {}

	/** Hears of every change; the answer ends it. The connection lives while somebody listens. */
	listen(listener: Listener): () => void {
		this.#listeners.add(listener);
		if (this.#listeners.size === 1) void this.#run();
		return () => {
			this.#listeners.delete(listener);
			if (this.#listeners.size === 0) this.stop();
		};
	}

	stop(): void {
		clearTimeout(this.#timer);
		this.#abort?.abort();
		this.#abort = undefined;
		this.#last = null;
		this.open = false;
	}

	/** Another team, another person: from the start, and everything is read again. */
	restart(): void {
		this.stop();
		if (this.#listeners.size > 0) void this.#run();
		this.#tell('again');
	}

	#tell(change: Change | 'again'): void {
		for (const listener of this.#listeners) listener(change);
	}

	async #run(): Promise<void> {
		const abort = (this.#abort = new AbortController());
		let end = false;
		try {
			const answer = await open(EVENTS, {
				query: { scope: this.scope },
				headers: this.#last ? { 'last-event-id': this.#last } : undefined,
				signal: abort.signal
			});
			// What happened between the page's first reading and now is not told again.
			this.open = true;
			this.#wait = FIRST_WAIT_MS;
			this.#tell('again');
			if (answer.body)
				await readEvents(answer.body, (sent) => this.#received(sent.event, sent.data, sent.id));
		} catch (error) {
			// A server without events: lists ask again by themselves.
			end = error instanceof ApiError && [401, 403, 404].includes(error.status);
		}
		if (abort.signal.aborted) return;
		this.open = false;
		if (end) return;
		this.#timer = setTimeout(() => void this.#run(), this.#wait * (0.75 + Math.random() / 2));
		this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
	}

	#received(event: string, data: string, id: string | null): void {
		if (id) this.#last = id;
		if (event === 'ready') return;
		if (event === 'reset') {
			this.#last = null;
			this.#tell('again');
			return;
		}
		try {
			const change = JSON.parse(data) as Change;
			this.#tell({ ...change, type: change.type ?? event });
		} catch {
			// Not for us.
		}
	}
}

export const stream = new Stream();
/** All teams' changes, for the administrator's pages. */
export const platformStream = new Stream('platform');
