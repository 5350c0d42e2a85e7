// A fresh installation, from its setup token on; then people who sign in at a provider of their own.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { inspect, logIn, useBrowser, withPage } from './harness';
import { end, firstLine, Own } from './own';
import { walk } from './walk';

useBrowser();

const provider = new URL('../../tests/oidc/', import.meta.url).pathname;
const own = new Own();
let oidc: ChildProcess | undefined;
let issuer = '';
beforeAll(async () => {
	if (!existsSync(`${provider}node_modules/oidc-provider`))
		execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: provider });
	oidc = spawn('node', ['server.mjs'], { cwd: provider, stdio: ['pipe', 'pipe', 'ignore'] });
	issuer = await firstLine(oidc, (line) => line.startsWith('http://'));
	await own.start({
		ATOLL_SIGNUP: 'open',
		ATOLL_OIDC_ISSUER: issuer,
		ATOLL_OIDC_CLIENT_ID: 'atoll-on-loopback',
		ATOLL_OIDC_CLIENT_SECRET: 'a-secret-of-the-test',
		ATOLL_OIDC_NAME: 'The company',
		ATOLL_GITHUB_CLIENT_ID: 'atoll',
		ATOLL_GITHUB_CLIENT_SECRET: 'another-secret',
		// Nobody is there: a button is all that is looked at.
		ATOLL_GITHUB_URL: 'http://127.0.0.1:9'
	});
});
afterAll(async () => {
	await end(oidc);
	await own.remove();
});

it('leads a fresh installation to its setup, refuses a wrong token at its field, and makes the first admin once', () =>
	withPage(
		async (page) => {
			await page.goto('/');
			await page.waitForURL(/\/setup/);
			await page.getByLabel('Setup token').waitFor();
			await walk(page, '/setup', 3);
			await page.getByLabel('Setup token').fill('not the token');
			await page.getByLabel('Email').fill('root@example.org');
			await page.getByLabel('Password').fill('the first of many');
			await page.getByRole('button', { name: 'Make the first admin' }).click();
			await page.locator('[aria-invalid=true]').or(page.getByRole('alert')).first().waitFor();
			await inspect(page, 'setup');
			// As the link that the server prints has it.
			await page.goto(`/setup#token=${own.setupToken}`);
			await page.reload();
			expect(await page.getByLabel('Setup token').inputValue()).toBe(own.setupToken);
			await page.getByLabel('Email').fill('root@example.org');
			await page.getByLabel('Password').fill('the first of many');
			await page.getByRole('button', { name: 'Make the first admin' }).click();
			await page.waitForURL(/\/dashboard\/sandboxes/);
			await page.getByRole('link', { name: 'Platform administration' }).waitFor();
			await page.goto('/setup');
			await page.getByRole('heading', { name: 'Atoll is set up' }).waitFor();
			await inspect(page, 'setup-done');
		},
		{ at: own.url, expected: /40[013]/ }
	));

it('signs in at the company’s provider and comes back to the page that was wanted, as the same person each time', () =>
	withPage(
		async (page) => {
			await page.goto('/dashboard/keys');
			await page.waitForURL(/\/login/);
			await page.getByRole('link', { name: 'Continue with GitHub' }).waitFor();
			await inspect(page, 'login-providers');
			await page.getByRole('link', { name: 'Continue with The company' }).click();
			await atProvider('ada@example.test');
			await page.waitForURL((url) => url.pathname === '/dashboard/keys');
			await page
				.getByRole('button', { name: /ada@example\.test/ })
				.first()
				.waitFor();
			await page.goto('/dashboard/settings');
			await page.getByRole('button', { name: 'Set a password' }).waitFor();
			await page.getByRole('button', { name: /account and theme/i }).click();
			await page.getByRole('menuitem', { name: 'Log out' }).click();
			// The provider still knows them, and asks only whether Atoll may.
			await page.getByRole('link', { name: 'Continue with The company' }).click();
			await page.getByRole('button', { name: 'Continue' }).click();
			await page.waitForURL((url) => url.pathname === '/dashboard/sandboxes');
			await page
				.getByRole('button', { name: /ada@example\.test/ })
				.first()
				.waitFor();

			async function atProvider(login: string) {
				await page.waitForURL((url) => url.origin === issuer);
				await page.locator('input[name=login]').fill(login);
				await page.locator('input[name=password]').fill('x');
				await page.locator('button[type=submit]').click();
				await page.getByRole('button', { name: 'Continue' }).click();
			}
		},
		{ at: own.url, elsewhere: issuer, expected: /401/ }
	));

it('says why a sign-in elsewhere came to nothing, and lets one sign in all the same', () =>
	withPage(
		async (page) => {
			// Called off at the provider; and an address that it has not verified.
			await page.goto('/v1/auth/oidc/oidc/callback?error=access_denied&state=x');
			await page.getByRole('alert').getByText('The sign-in was not finished').waitFor();
			await inspect(page, 'login-elsewhere-refused');
			await page.getByRole('link', { name: 'Continue with The company' }).click();
			await page.locator('input[name=login]').fill('unverified+bob@example.test');
			await page.locator('input[name=password]').fill('x');
			await page.locator('button[type=submit]').click();
			await page.getByRole('button', { name: 'Continue' }).click();
			await page.waitForURL(/\/login\?error=email_not_verified/);
			await page.getByRole('alert').getByText('Verify it there').waitFor();
			await logIn(page, 'the first of many', 'root@example.org');
			await page.waitForURL((url) => url.pathname === '/dashboard/sandboxes');
		},
		{ at: own.url, elsewhere: issuer, expected: /401/ }
	));
