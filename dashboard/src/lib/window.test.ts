import { expect, it } from 'vitest';

import { visible } from './window';

it('draws a short list whole', () => {
	expect(visible(5, 40, 0, 800)).toEqual({ first: 0, end: 5, above: 0, below: 0 });
});

it('draws a bounded part of a long list, and keeps its full height', () => {
	for (const scrolled of [-50, 0, 10_000, 199_000, 1e9]) {
		const part = visible(5000, 40, scrolled, 800);
		expect(part.end - part.first).toBeLessThan(50);
		expect(part.above + part.below + (part.end - part.first) * 40).toBe(200_000);
	}
});

it('has nothing to draw of an empty list', () => {
	expect(visible(0, 40, 0, 800)).toEqual({ first: 0, end: 0, above: 0, below: 0 });
});
