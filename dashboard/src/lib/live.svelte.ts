// Keeps something of the server's fresh while somebody looks: reads it, then follows the event stream. Without the stream
// it asks again at a pace, rests while the page is hidden, and slows down while the server can't be reached.
import { describe } from '$api/errors';

import { type Change, type Stream, stream } from './stream.svelte';

const PACE_MS = 2000;
const SLOWEST_MS = 30_000;
/** With the stream: a net for what no event tells. */
const FOLLOWING_MS = 60_000;
/** Several changes at once are one reading. */
const GATHER_MS = 120;

export interface Options<T> {
	/** What a change makes of the value; 'again' to read it again, undefined when it has nothing to do with it. */
	on?: (change: Change, value: T) => T | 'again' | undefined;
	/** How often it is read again although the stream is there, for what changes without an event. */
	every?: number;
	from?: Stream;
}

export class Live<T> {
	value = $state.raw<T | undefined>(undefined);
	/** Why the last attempt failed; the last good value stays. */
	problem = $state<string | null>(null);
	/** The failure itself, for pages that treat a 404 differently. */
	cause = $state.raw<unknown>(null);
	loading = $state(true);

	#fetch: (signal: AbortSignal) => Promise<T>;
	#options: Options<T>;
	#stream: Stream;
	#timer: ReturnType<typeof setTimeout> | undefined;
	#abort: AbortController | undefined;
	#failures = 0;
	#reading = false;
	/** Something changed while it was being read: the answer may be from before. */
	#stale = false;
	#stopped = true;
	#edits = new Map<symbol, (value: T) => T>();

	constructor(fetch: (signal: AbortSignal) => Promise<T>, options: Options<T> = {}) {
		this.#fetch = fetch;
		this.#options = options;
		this.#stream = options.from ?? stream;
	}

	/** Begins; the answer ends it. For `$effect`. */
	start(): () => void {
		this.#stopped = false;
		const wake = () => {
			if (document.visibilityState === 'visible') void this.refresh();
		};
		const leave = this.#stream.listen((change) => this.#heard(change));
		document.addEventListener('visibilitychange', wake);
		window.addEventListener('online', wake);
		void this.refresh();
		return () => {
			this.#stopped = true;
			clearTimeout(this.#timer);
			this.#abort?.abort();
			leave();
			document.removeEventListener('visibilitychange', wake);
			window.removeEventListener('online', wake);
		};
	}

	/** Asks now. An answer that was under way is dropped: it may be older than what was just done. */
	async refresh(): Promise<void> {
		if (this.#stopped) return;
		clearTimeout(this.#timer);
		this.#abort?.abort();
		const abort = (this.#abort = new AbortController());
		this.#reading = true;
		this.#stale = false;
		try {
			const value = await this.#fetch(abort.signal);
			if (abort.signal.aborted) return;
			this.value = this.#edited(value);
			this.problem = null;
			this.cause = null;
			this.#failures = 0;
		} catch (error) {
			if (abort.signal.aborted) return;
			this.problem = describe(error);
			this.cause = error;
			this.#failures += 1;
		}
		this.#reading = false;
		this.loading = false;
		if (this.#stale) this.#soon();
		else this.#again();
	}

	/** Shows what an action will do before the server has answered; the answer takes it back. What is read meanwhile
	 *  has it too, so that nothing jumps to and fro. */
	edit(change: (value: T) => T): () => void {
		const name = Symbol('edit');
		this.#edits.set(name, change);
		if (this.value !== undefined) this.value = change(this.value);
		return () => {
			this.#edits.delete(name);
			void this.refresh();
		};
	}

	#edited(value: T): T {
		let edited = value;
		for (const edit of this.#edits.values()) edited = edit(edited);
		return edited;
	}

	#heard(change: Change | 'again'): void {
		if (change === 'again' || this.value === undefined) {
			if (this.#reading) this.#stale = true;
			else if (this.value !== undefined) this.#soon();
			return;
		}
		const next = this.#options.on?.(change, this.value);
		if (next === undefined) return;
		if (this.#reading) this.#stale = true;
		if (next === 'again') this.#soon();
		else this.value = this.#edited(next);
	}

	#soon(): void {
		if (this.#stopped || this.#reading) return;
		clearTimeout(this.#timer);
		this.#timer = setTimeout(() => void this.refresh(), GATHER_MS);
	}

	#again(): void {
		if (this.#stopped || document.visibilityState !== 'visible') return;
		const pace = this.#stream.open ? (this.#options.every ?? FOLLOWING_MS) : PACE_MS;
		const wait = this.#failures > 0 ? Math.min(PACE_MS * 2 ** this.#failures, SLOWEST_MS) : pace;
		this.#timer = setTimeout(() => void this.refresh(), wait);
	}
}

/** For lists: a change of such a thing puts it in, replaces it or takes it out. */
export function following<T extends { id: string }>(
	kind: string,
	options: { keep?: (item: T) => boolean; is?: (object: unknown) => object is T } = {}
): (change: Change, value: T[]) => T[] | 'again' | undefined {
	return (change, value) => {
		if (change.resource?.kind !== kind) return undefined;
		const { id } = change.resource;
		const gone = /\.(deleted|destroyed|removed)$/.test(change.type);
		if (gone) return value.filter((item) => item.id !== id);
		const { object } = change;
		if (!options.is?.(object)) return 'again';
		if (options.keep && !options.keep(object)) return value.filter((item) => item.id !== id);
		return value.some((item) => item.id === id)
			? value.map((item) => (item.id === id ? object : item))
			: [object, ...value];
	};
}
