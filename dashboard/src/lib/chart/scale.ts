// How far the axis of a chart reaches.

/** With room above what was measured, so that a little can be seen to change; against the limit when half of that is
 *  nearly used. */
export function highest(top: number, least: number, limit?: number): number {
	const room = Math.max(least, top * 1.25);
	if (limit !== undefined && room > limit / 2) return Math.max(limit, top * 1.08);
	return room || 1;
}

/** What the axis says beside its lines: what rounds to the same is said once. */
export function marks(values: number[], unit: (value: number) => string): string[] {
	const said = values.map(unit);
	return said.map((text, at) => (text === said[at - 1] ? '' : text));
}
