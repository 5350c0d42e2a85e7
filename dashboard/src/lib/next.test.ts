import { expect, it } from 'vitest';

import { nextPage } from './next';

it.each([
	['/dashboard/byoc?x=1', '/dashboard/byoc?x=1'],
	['/admin/hosts', '/admin/hosts'],
	['https://elsewhere.example', '/dashboard/sandboxes'],
	['//elsewhere.example', '/dashboard/sandboxes'],
	['/dashboards', '/dashboard/sandboxes'],
	['', '/dashboard/sandboxes']
])('after a login with next=%s it goes to %s', (next, page) =>
	expect(nextPage(new URLSearchParams({ next }))).toBe(page)
);
