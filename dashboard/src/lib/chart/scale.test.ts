import { expect, it } from 'vitest';

import { highest, marks } from './scale';

it('leaves room above what is little, and shows what is much against its limit', () => {
	expect(highest(0, 2, 100)).toBe(2);
	expect(highest(8, 2, 100)).toBe(10);
	expect(highest(60, 2, 100)).toBe(100);
	// More than there should be is not cut.
	expect(highest(200, 2, 100)).toBeGreaterThan(200);
	expect(highest(800, 1024)).toBe(1024);
	expect(highest(4000, 1024)).toBe(5000);
	expect(highest(0, 0)).toBe(1);
});

it('says once what rounds to the same', () => {
	const minutes = (seconds: number) => `${Math.round(seconds / 60)} min`;
	expect(marks([0, 10, 20, 30, 40, 50], minutes)).toEqual(['0 min', '', '', '1 min', '', '']);
	expect(marks([0, 60, 120], minutes)).toEqual(['0 min', '1 min', '2 min']);
	expect(marks([], minutes)).toEqual([]);
});
