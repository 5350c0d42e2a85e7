// What a page's main thread does for each frame, from Chromium's own trace: script, style, layout and paint, in CPU time,
// so that other work on the machine doesn't count. Rasterising is on other threads, and without a GPU on the CPU as well:
// it is not in these numbers.
import type { Browser, Page } from 'playwright-core';

interface TraceEvent {
	name: string;
	ph: string;
	pid: number;
	tid: number;
	ts: number;
	dur?: number;
	/** CPU time of the thread, microseconds. */
	tdur?: number;
	args?: { name?: string };
}

/** Milliseconds of the main thread per frame, in the order of the frames. */
export async function frames(
	browser: Browser,
	page: Page,
	work: () => Promise<unknown>
): Promise<{ work: number[]; script: number; layout: number; paint: number; layouts: number }> {
	await browser.startTracing(page, {
		categories: ['toplevel', 'devtools.timeline', 'disabled-by-default-devtools.timeline', '__metadata']
	});
	await work();
	const { traceEvents } = JSON.parse((await browser.stopTracing()).toString()) as {
		traceEvents: TraceEvent[];
	};
	const begins = traceEvents.filter(({ name }) => name === 'FireAnimationFrame');
	const of = begins[0];
	if (!of) throw new Error('the trace has no frame');
	const main = traceEvents
		.filter(({ pid, tid }) => pid === of.pid && tid === of.tid)
		.toSorted((a, b) => a.ts - b.ts);
	const cost = ({ tdur, dur }: TraceEvent) => (tdur ?? dur ?? 0) / 1000;
	const tasks = main.filter(({ name, ph }) => name === 'RunTask' && ph === 'X');
	// The task that fires animation frames also styles, lays out and paints: it begins a frame, what follows belongs to it.
	const each: number[] = [];
	let next = 0;
	for (const task of tasks) {
		const at = begins[next]?.ts ?? Infinity;
		const first = at >= task.ts && at <= task.ts + (task.dur ?? 0);
		if (first) {
			while ((begins[next]?.ts ?? Infinity) <= task.ts + (task.dur ?? 0)) next += 1;
			each.push(cost(task));
		} else if (each.length > 0) each.push((each.pop() ?? 0) + cost(task));
	}
	const sum = (names: RegExp) =>
		main.filter(({ name }) => names.test(name)).reduce((all, event) => all + cost(event), 0) / each.length;
	return {
		work: each,
		script: sum(/^(FireAnimationFrame|FunctionCall|EventDispatch)$/),
		layout: sum(/^(UpdateLayoutTree|Layout)$/),
		/** How often a frame is laid out. */
		layouts: main.filter(({ name, ph }) => name === 'Layout' && ph !== 'E').length / each.length,
		paint: sum(/^(PrePaint|Paint|Layerize|Commit)$/)
	};
}

export function percentile(values: number[], part: number): number {
	const sorted = values.toSorted((a, b) => a - b);
	return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0;
}
