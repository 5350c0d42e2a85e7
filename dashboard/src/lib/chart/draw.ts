// uPlot, loaded only where a chart is shown, in the design's own colours.
import 'uplot/dist/uPlot.min.css';

import uPlot from 'uplot';

import { highest, marks } from './scale';

export interface Line {
	name: string;
	/** A custom property of the design: `--accent`. */
	colour: string;
}
export interface Drawing {
	/** Seconds since 1970, then one row per line; null where nothing was measured. */
	set(data: (number | null)[][]): void;
	resize(width: number): void;
	/** After a change of theme. */
	repaint(): void;
	destroy(): void;
}

const DAY = 86_400;
/** In pixels, less the room beside the axis. */
const HALF_A_LABEL = 16;

export function draw(
	into: HTMLElement,
	lines: Line[],
	options: {
		height: number;
		unit: (value: number) => string;
		/** The axis reaches at least this far. */
		least?: number;
		/** It can't be more than this: what comes near it is seen against it. */
		limit?: number;
		bars?: boolean;
		days?: boolean;
		/** Marks at powers of two: for sizes. */
		binary?: boolean;
	}
): Drawing {
	const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
	const axis: uPlot.Axis = {
		stroke: () => css('--text-3'),
		font: '11px "Hanken Grotesk Variable", sans-serif',
		grid: { stroke: () => css('--line'), width: 1 },
		ticks: { show: false }
	};
	const bars = options.bars ? uPlot.paths.bars?.({ size: [0.6, 40], radius: 0.15 }) : undefined;
	const plot = new uPlot(
		{
			width: into.clientWidth || 300,
			height: options.height,
			padding: [8, 8, 0, 0],
			legend: { show: false },
			cursor: {
				y: false,
				points: options.bars ? { show: false } : { size: 7 },
				drag: { x: false, y: false }
			},
			scales: {
				x: {
					time: true,
					// A single point, or none yet, still has a minute around it. (uPlot itself takes years for one.)
					range: (self, first, last) => {
						const [times] = self.data;
						const end = (times && times.length > 1 ? last : times?.[0]) ?? Date.now() / 1000;
						// A bar is as wide on either side of its day.
						if (options.days) return [(first ?? end) - DAY / 2, end + DAY / 2];
						return [Math.min(first ?? end, end - 60), end];
					}
				},
				y: { range: (_, __, top) => [0, highest(top || 0, options.least ?? 0, options.limit)] }
			},
			axes: [
				{
					...axis,
					size: 26,
					grid: { show: false },
					values: (self, splits) => {
						const span = (splits.at(-1) ?? 0) - (splits[0] ?? 0);
						const days = options.days || span > 2 * DAY;
						const room = self.bbox.width / uPlot.pxRatio - HALF_A_LABEL;
						return splits.map((at) => {
							// Cut at the edge it would say another time.
							if (self.valToPos(at, 'x') > room) return '';
							const date = new Date(at * 1000);
							return days
								? date.toLocaleDateString('en', {
										day: 'numeric',
										month: 'short',
										...(options.days ? { timeZone: 'UTC' } : {})
									})
								: date.toLocaleTimeString('en-GB', {
										hour: '2-digit',
										minute: '2-digit',
										...(span < 600 ? { second: '2-digit' } : {})
									});
						});
					},
					space: 80
				},
				{
					...axis,
					...(options.binary ? { incrs: Array.from({ length: 50 }, (_, at) => 2 ** at) } : {}),
					size: 62,
					values: (_, splits) => marks(splits, options.unit),
					space: 34
				}
			],
			series: [
				{},
				...lines.map((line) => ({
					label: line.name,
					stroke: () => css(line.colour),
					width: options.bars ? 0 : 1.6,
					fill: () => {
						const colour = css(line.colour);
						return options.bars ? colour : `color-mix(in oklch, ${colour} 14%, transparent)`;
					},
					// Where there is no line yet, a dot.
					points: {
						show: (self: uPlot) => !bars && self.data[0].length < 3,
						size: 6,
						fill: () => css(line.colour)
					},
					...(bars ? { paths: bars } : {})
				}))
			],
			hooks: {
				setCursor: [
					(self) => {
						const at = self.cursor.idx;
						into.dispatchEvent(new CustomEvent('point', { detail: at ?? null }));
					}
				]
			}
		},
		[[], ...lines.map(() => [])],
		into
	);
	return {
		set: (data) => plot.setData(data as uPlot.AlignedData),
		resize: (width) => plot.setSize({ width, height: options.height }),
		repaint: () => plot.redraw(false, true),
		destroy: () => plot.destroy()
	};
}
