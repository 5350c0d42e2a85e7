// Points of a sandbox's metrics as rows for charts.
import type { MetricsPoint } from '$api/types';

export interface Series {
	time: number[];
	cpu: number[];
	memory: number[];
	disk: number[];
	/** Bytes per second; null for the first point, and where the counter began anew. */
	received: (number | null)[];
	sent: (number | null)[];
}

export function series(points: MetricsPoint[]): Series {
	const rate = (pick: (point: MetricsPoint) => number) =>
		points.map((point, at) => {
			const before = points[at - 1];
			if (!before) return null;
			const seconds = point.timestamp_unix - before.timestamp_unix;
			const more = pick(point) - pick(before);
			return seconds > 0 && more >= 0 ? more / seconds : null;
		});
	return {
		time: points.map((point) => point.timestamp_unix),
		cpu: points.map((point) => point.cpu_pct),
		memory: points.map((point) => point.mem_bytes),
		disk: points.map((point) => point.disk_bytes),
		received: rate((point) => point.net_rx_bytes),
		sent: rate((point) => point.net_tx_bytes)
	};
}

/** What is known already and what has just been read: by time, each once, no older than the range. */
export function merge(before: MetricsPoint[], more: MetricsPoint[], seconds: number): MetricsPoint[] {
	const by = new Map([...before, ...more].map((point) => [point.timestamp_unix, point]));
	const all = [...by.values()].toSorted((a, b) => a.timestamp_unix - b.timestamp_unix);
	const newest = all.at(-1)?.timestamp_unix ?? 0;
	return all.filter((point) => point.timestamp_unix > newest - seconds);
}
