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

it('keeps each point once, in order, and forgets what is older than the range', () =>
	expect(merge([at(1), at(50)], [at(50), at(40), at(60)], 30).map((point) => point.timestamp_unix)).toEqual([
		40, 50, 60
	]));
