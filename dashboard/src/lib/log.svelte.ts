// The log of a sandbox as it grows.
import { describe } from '$api/errors';
import { sandboxLogs } from '$api/sandboxes';
import type { LogLine } from '$api/types';

const KEPT = 5000;

export class Log {
	lines = $state.raw<LogLine[]>([]);
	/** It was asked for, with or without success. */
	read = $state(false);
	problem = $state<string | null>(null);

	/** Begins; the answer ends it. For `$effect`. */
	follow(id: string, paceMs: number): () => void {
		const abort = new AbortController();
		let timer: ReturnType<typeof setTimeout>;
		// Whole pages stay as they are: only what comes after them is asked for again.
		let whole: LogLine[] = [];
		let after: string | undefined;
		const ask = async () => {
			try {
				let answer = await sandboxLogs(id, after, abort.signal);
				while (answer.next_cursor) {
					whole = [...whole, ...answer.items].slice(-KEPT);
					after = answer.next_cursor;
					answer = await sandboxLogs(id, after, abort.signal);
				}
				const all = [...whole, ...answer.items].slice(-KEPT);
				const known = this.lines;
				if (all.length !== known.length || all.at(-1)?.timestamp !== known.at(-1)?.timestamp)
					this.lines = all;
				this.problem = null;
			} catch (error) {
				if (abort.signal.aborted) return;
				this.problem = describe(error);
			}
			this.read = true;
			if (!abort.signal.aborted) timer = setTimeout(() => void ask(), paceMs);
		};
		void ask();
		return () => {
			abort.abort();
			clearTimeout(timer);
		};
	}
}
