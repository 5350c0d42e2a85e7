// Keeps something of the server's fresh while somebody looks: asks again a moment after each answer, rests while the
// page is hidden, slows down while the server can't be reached, and asks at once after an action or on return.
import { describe } from '$api/errors';

const PACE_MS = 2000;
const SLOWEST_MS = 30_000;

export class Live<T> {
	value = $state.raw<T | undefined>(undefined);
	/** Why the last attempt failed; the last good value stays. */
	problem = $state<string | null>(null);
	/** The failure itself, for pages that treat a 404 differently. */
	cause = $state.raw<unknown>(null);
	loading = $state(true);

	#fetch: (signal: AbortSignal) => Promise<T>;
	#timer: ReturnType<typeof setTimeout> | undefined;
	#abort: AbortController | undefined;
	#failures = 0;
	#stopped = true;

	constructor(fetch: (signal: AbortSignal) => Promise<T>) {
		this.#fetch = fetch;
	}

	/** Begins; the answer ends it. For `$effect`. */
	start(): () => void {
		this.#stopped = false;
		const wake = () => {
			if (document.visibilityState === 'visible') void this.refresh();
		};
		document.addEventListener('visibilitychange', wake);
		window.addEventListener('online', wake);
		void this.refresh();
		return () => {
			this.#stopped = true;
			clearTimeout(this.#timer);
			this.#abort?.abort();
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
		try {
			const value = await this.#fetch(abort.signal);
			if (abort.signal.aborted) return;
			this.value = value;
			this.problem = null;
			this.cause = null;
			this.#failures = 0;
		} catch (error) {
			if (abort.signal.aborted) return;
			this.problem = describe(error);
			this.cause = error;
			this.#failures += 1;
		}
		this.loading = false;
		this.#again();
	}

	#again(): void {
		if (this.#stopped || document.visibilityState !== 'visible') return;
		const pace = Math.min(PACE_MS * 2 ** this.#failures, SLOWEST_MS);
		this.#timer = setTimeout(() => void this.refresh(), pace);
	}
}
