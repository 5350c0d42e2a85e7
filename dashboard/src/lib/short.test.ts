import { expect, it } from 'vitest';

import { shortId } from './short';

it('keeps the kind and enough to tell two apart', () => {
	expect(shortId('sb-um20dzw3krrdm8mdl97f')).toBe('sb-um20dzw3…');
	expect(shortId('host-j5alfqaxzif78ogaycde')).toBe('host-j5alfqax…');
});
