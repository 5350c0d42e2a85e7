// What a sandbox used over a range of time, read again at the range's pace while it runs.
import { describe } from '$api/errors';
import { sandboxMetrics } from '$api/sandboxes';
import type { MetricsPoint } from '$api/types';

import { merge } from './metrics';

export const RANGES: { value: string; label: string; seconds: number; pace: number }[] = [
	{ value: '5m', label: 'Last 5 minutes', seconds: 300, pace: 5000 },
	{ value: '1h', label: 'Last hour', seconds: 3600, pace: 15_000 },
	{ value: '24h', label: 'Last day', seconds: 86_400, pace: 60_000 },
	{ value: '7d', label: 'Last 7 days', seconds: 604_800, pace: 300_000 },
	{ value: '30d', label: 'Last 30 days', seconds: 2_592_000, pace: 300_000 }
];

export class Measured {
	points = $state.raw<MetricsPoint[]>([]);
	/** Seconds that a point stands for, where the server keeps a history. */
	step = $state<number | null>(null);
	/** It was asked for, with or without success. */
	read = $state(false);
	problem = $state<string | null>(null);

	/** Begins; the answer ends it. For `$effect`. */
	follow(id: string, range: string, running: boolean): () => void {
		const { seconds, pace } = RANGES.find(({ value }) => value === range) ?? { seconds: 300, pace: 5000 };
		const abort = new AbortController();
		let timer: ReturnType<typeof setTimeout>;
		let known: MetricsPoint[] = [];
		const ask = async () => {
			try {
				const answer = await sandboxMetrics(id, range, abort.signal);
				// A host that keeps no history answers this moment alone: then it is kept here.
				known = answer.step_sec ? answer.points : merge(known, answer.points, seconds);
				this.step = answer.step_sec ?? null;
				this.points = known;
				this.problem = null;
			} catch (error) {
				if (abort.signal.aborted) return;
				this.problem = describe(error);
			}
			this.read = true;
			if (!abort.signal.aborted && running) timer = setTimeout(() => void ask(), pace);
		};
		void ask();
		return () => {
			abort.abort();
			clearTimeout(timer);
		};
	}
}

/** Of an axis: what a sandbox that does nothing uses is little, and is to look like it. */
export const memoryFloor = (megabytes: number) => megabytes * 131_072;

export const percent = (value: number) =>
	`${value < 10 ? value.toFixed(1).replace(/\.0$/, '') : Math.round(value)} %`;
