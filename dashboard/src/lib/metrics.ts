// Points of a sandbox's metrics as rows for charts.
import type { MetricsPoint } from '$api/types';

export interface Series {
	time: number[];
	/** Null where nothing was measured for a while, so that no line leads over the gap. */
	cpu: (number | null)[];
	memory: (number | null)[];
	disk: (number | null)[];
	/** Bytes per second; null for the first point, and where the counter began anew. */
	received: (number | null)[];
	sent: (number | null)[];
}

/** So many steps without a point are a gap: it was paused, or its host was away. */
const GAP = 2.5;

export function series(points: MetricsPoint[], step: number | null = null): Series {
	const made: Series = { time: [], cpu: [], memory: [], disk: [], received: [], sent: [] };
	const usual = step ?? median(points.slice(1).map((point, at) => point.timestamp_unix - time(points[at])));
	for (const [at, point] of points.entries()) {
		const before = points[at - 1];
		const seconds = point.timestamp_unix - time(before);
		const gap = before !== undefined && usual > 0 && seconds > usual * GAP;
		if (gap) {
			made.time.push(time(before) + usual);
			for (const row of [made.cpu, made.memory, made.disk, made.received, made.sent]) row.push(null);
		}
		const rate = (pick: (point: MetricsPoint) => number) => {
			if (!before || gap || seconds <= 0) return null;
			const more = pick(point) - pick(before);
			return more >= 0 ? more / seconds : null;
		};
		made.time.push(point.timestamp_unix);
		made.cpu.push(point.cpu_pct);
		made.memory.push(point.mem_bytes);
		made.disk.push(point.disk_bytes);
		made.received.push(rate((one) => one.net_rx_bytes));
		made.sent.push(rate((one) => one.net_tx_bytes));
	}
	return made;
}

const time = (point: MetricsPoint | undefined) => point?.timestamp_unix ?? 0;

function median(values: number[]): number {
	return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** What is known already and what has just been read: by time, each once, no older than the range. */
export function merge(before: MetricsPoint[], more: MetricsPoint[], seconds: number): MetricsPoint[] {
	const by = new Map([...before, ...more].map((point) => [point.timestamp_unix, point]));
	const all = [...by.values()].toSorted((a, b) => a.timestamp_unix - b.timestamp_unix);
	const newest = all.at(-1)?.timestamp_unix ?? 0;
	return all.filter((point) => point.timestamp_unix > newest - seconds);
}
