// What the sandboxes in view use, for the small curves in the list: a few at a time, only those that run and are looked
// at, and kept while the page is open.
import { sandboxMetrics } from '$api/sandboxes';
import type { MetricsPoint } from '$api/types';

const PACE_MS = 10_000;
const AT_ONCE = 3;
const KEPT = 30;
const AT_MOST = 60;
/** What is scrolled past is not asked for. */
const SETTLED_MS = 300;
const LOOK_MS = 200;

export class Sparks {
	points = $state.raw(new Map<string, MetricsPoint[]>());
	#wanted: string[] = [];
	#since = 0;
	#asked = new Map<string, number>();

	/** Which sandboxes are looked at. */
	want(ids: string[]): void {
		const wanted = ids.slice(0, AT_MOST);
		if (wanted.length !== this.#wanted.length || wanted.some((id, at) => id !== this.#wanted[at]))
			this.#since = Date.now();
		this.#wanted = wanted;
	}

	/** Begins; the answer ends it. For `$effect`. */
	start(): () => void {
		const abort = new AbortController();
		for (let one = 0; one < AT_ONCE; one += 1) void this.#work(abort.signal);
		return () => abort.abort();
	}

	async #work(signal: AbortSignal): Promise<void> {
		while (!signal.aborted) {
			const now = Date.now();
			const id =
				document.visibilityState === 'visible' && now - this.#since > SETTLED_MS
					? this.#wanted.find((wanted) => now - (this.#asked.get(wanted) ?? 0) > PACE_MS)
					: undefined;
			if (!id) {
				await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
				continue;
			}
			this.#asked.set(id, now);
			try {
				const { points } = await sandboxMetrics(id, '5m', signal);
				const before = this.points.get(id) ?? [];
				const last = before.at(-1)?.timestamp_unix ?? 0;
				const more = points.filter((point) => point.timestamp_unix > last);
				this.points = new Map(this.points).set(id, [...before, ...more].slice(-KEPT));
			} catch {
				// It has just been paused or destroyed, or its host is away: the list says so itself.
			}
		}
	}
}
