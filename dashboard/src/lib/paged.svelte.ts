// A long list of the server's, as far as somebody has scrolled in it: filtered there, read a page at a time, kept fresh
// like every live list. What was read already is read again after a change, in as many pages.
import { describe } from '$api/errors';

import { Live, type Options } from './live.svelte';

export interface Part<T> {
	items: T[];
	next_cursor?: string | null;
	/** How many fit the filters over all pages, where the server says so. */
	total?: number;
}
interface Read<T> extends Part<T> {
	/** With which filters it was read, and how many pages. */
	scope: string;
}

/** Pages in a row without a single item that are read by themselves: a search looks through a part at a time. */
const EMPTY_ON_END = 5;

export class Paged<T> {
	readonly live: Live<Read<T>>;
	items = $derived.by(() => this.live.value?.items ?? []);
	total = $derived.by(() => this.live.value?.total);
	/** Changes when other rows are shown for another reason than that they are new. */
	scope = $derived.by(() => this.live.value?.scope ?? '');
	/** There is more than was read. */
	unread = $derived.by(() => Boolean(this.live.value?.next_cursor));
	/** The next page is on its way. */
	reading = $state(false);
	/** Why the next page could not be read. */
	problem = $state<string | null>(null);
	#page: (cursor: string | undefined, signal?: AbortSignal) => Promise<Part<T>>;
	#scope: () => string;
	#pages = 1;
	/** Of the filters: an answer to older ones is dropped. */
	#round = 0;

	constructor(
		page: (cursor: string | undefined, signal?: AbortSignal) => Promise<Part<T>>,
		scope: () => string,
		options: Options<Read<T>> = {}
	) {
		this.#page = page;
		this.#scope = scope;
		this.live = new Live((signal) => this.#read(undefined, this.#pages, signal), options);
	}

	/** Begins, and begins anew when the filters have changed; the answer ends it. For `$effect`. */
	start(): () => void {
		this.#pages = 1;
		this.#round += 1;
		this.problem = null;
		return this.live.start();
	}

	/** Reads on. */
	async more(): Promise<void> {
		const before = this.live.value;
		if (this.reading || !before?.next_cursor) return;
		const round = this.#round;
		this.reading = true;
		this.problem = null;
		try {
			const next = await this.#read(before.next_cursor, 1);
			// The list was read again meanwhile, perhaps with other filters: its end is elsewhere now.
			if (round !== this.#round || this.live.value?.next_cursor !== before.next_cursor) return;
			this.#pages += 1;
			const items = [...this.live.value.items, ...next.items];
			this.live.value = { ...next, items, scope: this.#named() };
		} catch (error) {
			if (round === this.#round) this.problem = describe(error);
		} finally {
			this.reading = false;
		}
	}

	/** Shows what an action will do beforehand. */
	edit(change: (items: T[]) => T[]): () => void {
		return this.live.edit((part) => ({ ...part, items: change(part.items) }));
	}

	#named(): string {
		return `${this.#scope()} ${this.#pages}`;
	}

	async #read(cursor: string | undefined, pages: number, signal?: AbortSignal): Promise<Read<T>> {
		const scope = this.#named();
		let part = await this.#page(cursor, signal);
		const items = [...part.items];
		for (let read = 1, empty = 0; part.next_cursor; read += 1) {
			if (items.length > 0 && read >= pages) break;
			if (items.length === 0 && ++empty > EMPTY_ON_END) break;
			part = await this.#page(part.next_cursor, signal);
			items.push(...part.items);
		}
		return { ...part, items, scope };
	}
}
