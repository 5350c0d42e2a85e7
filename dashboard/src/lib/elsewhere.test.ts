import { expect, it } from 'vitest';

import { elsewhereProblem, wayTo } from './elsewhere';

it('has words for every code of the server, and for those that it will have', () => {
	expect(elsewhereProblem(null)).toBeNull();
	expect(elsewhereProblem('email_not_verified')).toContain('Verify it there');
	expect(elsewhereProblem('eclipse')).toBe('The sign-in failed (eclipse). Try again.');
});

it('goes to a provider and comes back to the page that was wanted', () =>
	expect(wayTo('oidc', '/dashboard/sandboxes?q=a b')).toBe(
		'/v1/auth/oidc/oidc?return_to=%2Fdashboard%2Fsandboxes%3Fq%3Da+b'
	));
