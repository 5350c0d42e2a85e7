// An Atoll with nothing switched on: no mail, no other sign-in, no open sign-up, no BYOC, not even a host. Nobody is led
// where there is no way on.
import { afterAll, beforeAll, expect, it } from 'vitest';

import { inspect, logIn, useBrowser, withPage } from './harness';
import { Own } from './own';

useBrowser();

const own = new Own();
const PASSWORD = 'the first of many';
beforeAll(async () => {
	await own.start();
	await own.setUp('root@example.org', PASSWORD);
});
afterAll(() => own.remove());

it('offers no way in that isn’t there, and says what there is instead', () =>
	withPage(
		async (page) => {
			await page.goto('/login');
			await page.getByRole('button', { name: 'Log in' }).waitFor();
			expect(
				await page.getByRole('link', { name: /^Continue with|^Sign in with|^Log in with/ }).count()
			).toBe(0);
			expect(await page.getByRole('link', { name: 'Make an account' }).count()).toBe(0);
			await page.goto('/signup');
			await page.getByText(/By invitation only|No new accounts here/).waitFor();
			await inspect(page, 'signup-closed');
			await page.getByRole('link', { name: 'Log in instead' }).click();
			await page.getByRole('link', { name: 'Forgot your password?' }).click();
			await page.getByText('Ask a platform admin for a link').waitFor();
			await inspect(page, 'reset-without-mail');
			// There is an admin: nobody else becomes the first.
			await page.goto('/setup');
			await page
				.getByRole('link', { name: /log in/i })
				.first()
				.waitFor();
			expect(await page.getByLabel('Setup token').count()).toBe(0);
		},
		{ at: own.url }
	));

it('says who can switch own hosts on, and that no host is there for a sandbox', () =>
	withPage(
		async (page) => {
			await page.goto('/login?next=/dashboard/byoc');
			await logIn(page, PASSWORD, 'root@example.org');
			await page.getByText(/once a platform admin has switched that on/).waitFor();
			expect(await page.getByRole('button', { name: 'Register host' }).count()).toBe(0);
			expect(await page.getByRole('link', { name: 'Your hosts' }).count()).toBe(0);
			await inspect(page, 'byoc-off');
			await page.getByRole('link', { name: 'To the teams' }).click();
			await page.waitForURL(/\/admin\/teams/);
			await page.getByRole('switch').click();
			await page.getByText('may bring its own hosts').waitFor();
			await page.goto('/dashboard/byoc');
			await page.getByRole('button', { name: 'Register host' }).first().waitFor();

			await page.goto('/dashboard/sandboxes?new');
			const dialog = page.getByRole('dialog');
			await dialog.getByLabel('Labels').fill('task=kept');
			await dialog.getByRole('button', { name: 'Create sandbox' }).click();
			await dialog.getByRole('alert').getByText(/host/i).waitFor();
			await inspect(page, 'create-without-hosts');
			expect(await dialog.getByLabel('Labels').inputValue()).toBe('task=kept');

			// A host that is the platform's first slides in below the tab.
			await page.goto('/admin/hosts');
			await page.getByRole('heading', { name: 'No platform hosts' }).waitFor();
			await inspect(page, 'admin-hosts-empty');
			await page.getByRole('button', { name: 'Add host' }).first().click();
			await page.getByRole('dialog').getByRole('button', { name: 'Add host' }).click();
			await page.locator('[data-row][data-fresh]').waitFor();
		},
		{ at: own.url, expected: /503|409/ }
	));
