import { expect, it } from 'vitest';

import { admin, ask, enter, inspect, logIn, useBrowser, withPage } from './harness';

useBrowser();

it('invites somebody without an account by a link, who joins with it', () =>
	withPage(
		async (page) => {
			const email = `fay-${Date.now().toString(36)}@example.org`;
			await enter(page, '/dashboard/team');
			await page.getByRole('button', { name: 'Add somebody' }).click();
			await page.getByLabel('Email').fill(email);
			await page.getByRole('dialog').getByRole('button', { name: 'Add', exact: true }).click();
			const link = await page.getByLabel('Invitation').inputValue();
			expect(link).toContain('/invite#');
			await inspect(page, 'team-invited');
			await page.getByRole('button', { name: 'Done' }).click();
			await page.locator('[data-row]').filter({ hasText: email }).waitFor();
			await withPage(async (other) => {
				await other.goto(link);
				await other.getByRole('heading', { name: /^Join / }).waitFor();
				expect(await other.getByLabel('Email').inputValue()).toBe(email);
				await other.getByLabel('Your name').fill('Fay');
				await other.getByLabel('Password').fill('a long enough one');
				await inspect(other, 'invite');
				await other.getByRole('button', { name: 'Join' }).click();
				await other.waitForURL(/\/dashboard\/sandboxes/);
			});
			await page.locator('[data-row]').filter({ hasText: 'Fay' }).waitFor({ timeout: 40_000 });
		},
		{ expected: /404/ }
	));

it('hands out a link with which somebody sets a new password', () =>
	withPage(async (page) => {
		await enter(page, '/admin/users');
		await page.getByRole('button', { name: 'Add a person' }).click();
		const email = `gil-${Date.now().toString(36)}@example.org`;
		await page.getByRole('textbox', { name: 'Name' }).fill('Gil');
		await page.getByLabel('Email').fill(email);
		await page.getByRole('dialog').getByRole('button', { name: 'Add', exact: true }).click();
		const link = await page.getByLabel('Link').inputValue();
		await inspect(page, 'admin-user-link');
		await withPage(async (other) => {
			await other.goto(link);
			await other.getByLabel('New password').fill('gil has a password');
			await inspect(other, 'reset');
			await other.getByRole('button', { name: 'Set the password' }).click();
			await other.waitForURL(/\/login/);
			await logIn(other, 'gil has a password', email);
			await other.waitForURL(/\/dashboard\/sandboxes/);
		});
	}));

it('lets a program in that shows a code', () =>
	withPage(async (page) => {
		const begun = await ask<{ device_code: string; user_code: string; verification_uri_complete: string }>(
			'POST',
			'/v1/auth/device',
			{},
			{ client_name: 'atoll on reef' }
		);
		await enter(page);
		await page.goto(begun.verification_uri_complete);
		await page.getByText('atoll on reef').waitFor();
		await page.getByText(begun.user_code).waitFor();
		await inspect(page, 'device');
		await page.getByRole('button', { name: 'Let it in' }).click();
		await page.getByRole('heading', { name: 'It is logged in' }).waitFor();
		const { token } = await ask<{ token: string }>(
			'POST',
			'/v1/auth/device/token',
			{},
			{ device_code: begun.device_code }
		);
		expect(await ask<{ email: string }>('GET', '/v1/me', { authorization: `Bearer ${token}` })).toMatchObject(
			{
				email: (await admin<{ email: string }>('GET', '/v1/me')).email
			}
		);
	}));
