import { expect, it } from 'vitest';

import { fill } from './client';

it('puts values into a path, and never lets one leave its place', () => {
	expect(fill('/v1/sandboxes/{id}/pause', { id: 'sb-1' })).toBe('/v1/sandboxes/sb-1/pause');
	expect(fill('/v1/sandboxes/{id}', { id: '../hosts?x' })).toBe('/v1/sandboxes/..%2Fhosts%3Fx');
});
