import { expect, it } from 'vitest';

import { seenOnce } from './once';

it('hands on what is shown, and says what to do when the answer that had it was lost', () => {
	expect(seenOnce('atl_123', 'The key')).toBe('atl_123');
	for (const lost of [null, undefined, ''])
		expect(() => seenOnce(lost, 'The key')).toThrow(/^The key was made .* Delete it and make another\.$/);
});
