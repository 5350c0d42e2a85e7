import { expect, it } from 'vitest';

import type { MetricsPoint } from '$api/types';

import { merge, series } from './metrics';

const at = (timestamp_unix: number, net_rx_bytes = 0) =>
	({
		timestamp_unix,
		net_rx_bytes,
		net_tx_bytes: 0,
		cpu_pct: 1,
		mem_bytes: 2,
		disk_bytes: 3
	}) as MetricsPoint;

it('makes rates of counters, and none where a counter began anew', () =>
	expect(series([at(10, 100), at(20, 600), at(30, 50)]).received).toEqual([null, 50, null]));

it('breaks the line where nothing was measured for a while, and makes no rate over it', () => {
	const made = series([at(0, 0), at(5, 50), at(10, 100), at(300, 5000), at(305, 5050)]);
	expect(made.time).toEqual([0, 5, 10, 15, 300, 305]);
	expect(made.cpu).toEqual([1, 1, 1, null, 1, 1]);
	expect(made.received).toEqual([null, 10, 10, null, null, 10]);
});

it('keeps each point once, in order, and forgets what is older than the range', () =>
	expect(merge([at(1), at(50)], [at(50), at(40), at(60)], 30).map((point) => point.timestamp_unix)).toEqual([
		40, 50, 60
	]));
