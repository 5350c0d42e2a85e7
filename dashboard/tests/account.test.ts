import { afterEach, expect, it } from 'vitest';

import {
	admin,
	api,
	ask,
	credentials,
	enter,
	inspect,
	logIn,
	server,
	tokenOf,
	useBrowser,
	withPage
} from './harness';
import { joins, newPerson } from './people';

useBrowser();

afterEach(async () => {
	const { items } = await api<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => api('DELETE', `/v1/sandboxes/${id}`)));
	const { team_id } = await admin<{ team_id: string }>('GET', '/v1/me');
	await admin('PUT', `/v1/admin/teams/${team_id}/byoc`, { enabled: false });
});

it('asks for the password over the page when the session has ended, keeps what was typed, and does what was asked', () =>
	withPage(
		async (page) => {
			await enter(page);
			await page.keyboard.press('c');
			await page.getByLabel('Labels').fill('task=kept');
			// The session ends while the request is on its way: whatever else notices it, the request has been asked for.
			let ended = false;
			await page.route('**/v1/sandboxes', async (route) => {
				if (route.request().method() === 'POST' && !ended) {
					ended = true;
					const { items } = await admin<{ items: { id: string; kind: string }[] }>(
						'GET',
						'/v1/sessions?limit=1000'
					);
					const browsers = items.filter(({ kind }) => kind === 'browser');
					await Promise.all(browsers.map(({ id }) => admin('DELETE', `/v1/sessions/${id}`)));
				}
				await route.continue();
			});
			await page.getByRole('button', { name: 'Create sandbox' }).click();
			await page.getByRole('heading', { name: 'Your session has ended' }).waitFor();
			await inspect(page, 'session-ended');
			await page.getByLabel(/Password of/).fill(credentials.admin_password);
			await page.getByRole('button', { name: 'Log in' }).click();
			await page.waitForURL(/\/sandboxes\/sb-[a-z0-9]{20}$/);
			await page.getByText('task=kept').waitFor();
		},
		{ expected: /401/ }
	));

it('keeps no token where a script could read it, and allows nothing inline', () =>
	withPage(async (page) => {
		const answer = await page.request.get('/login');
		const policy = answer.headers()['content-security-policy'] ?? '';
		expect(policy).toContain("script-src 'self'");
		expect(policy).toContain("require-trusted-types-for 'script'");
		expect(policy).not.toContain('unsafe');
		await enter(page);
		const kept = await page.evaluate(
			'JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])'
		);
		expect(kept).not.toMatch(/eyJ|atl_|[0-9a-f]{32}/);
		const cookies = await page.context().cookies();
		expect(cookies.map(({ httpOnly, sameSite }) => [httpOnly, sameSite])).toEqual([[true, 'Strict']]);
		const inline = await page.evaluate(
			"document.querySelectorAll('script:not([src]), style, [onclick]').length"
		);
		expect(inline).toBe(0);
	}));

it('loads less than 200 kB of compressed JavaScript before a terminal or a chart is opened', () =>
	withPage(async (page) => {
		await enter(page);
		await page.getByText('No sandboxes yet').waitFor();
		const session = await page.context().newCDPSession(page);
		await session.send('Network.enable');
		await session.send('Network.setCacheDisabled', { cacheDisabled: true });
		const scripts = new Set<string>();
		let bytes = 0;
		session.on('Network.responseReceived', ({ requestId, response }) => {
			if (/javascript/.test(response.mimeType)) scripts.add(requestId);
		});
		session.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => {
			if (scripts.has(requestId)) bytes += encodedDataLength;
		});
		await page.goto('/dashboard/sandboxes', { waitUntil: 'load' });
		await page.getByText('No sandboxes yet').waitFor();
		expect(scripts.size).toBeGreaterThan(3);
		expect(bytes).toBeGreaterThan(20_000);
		expect(bytes).toBeLessThan(200_000);
	}));

it('finds and does by name: Ctrl-K goes to a page, to a sandbox by its label, and makes one', () =>
	withPage(async (page) => {
		const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', { metadata: { task: 'needle' } });
		await enter(page);
		await page.keyboard.press('Control+k');
		const palette = page.getByPlaceholder('A page, an action, a sandbox');
		const focused = page.locator('input[placeholder="A page, an action, a sandbox"]:focus');
		/** What Enter does now. */
		const first = page.locator('[role=option][data-selected]');
		await palette.fill('needle');
		await first.filter({ hasText: id }).waitFor();
		await page.keyboard.press('Enter');
		await page.waitForURL(new RegExp(id));
		await palette.waitFor({ state: 'detached' });
		await page.keyboard.press('Control+k');
		await page.getByRole('option', { name: 'API keys' }).waitFor();
		await inspect(page, 'palette');
		await focused.waitFor();
		await page.keyboard.type('keys');
		await page.keyboard.press('ArrowDown');
		await page.getByRole('option', { name: 'API keys' }).click();
		await page.waitForURL(/\/keys$/);
		await palette.waitFor({ state: 'detached' });
		await page.keyboard.press('Control+k');
		await focused.waitFor();
		await page.keyboard.type('new sandbox');
		await first.filter({ hasText: 'New sandbox' }).waitFor();
		await page.keyboard.press('Enter');
		await page.getByRole('dialog').getByLabel('Labels').waitFor();
	}));

it('shows a new key once, and deletes it', () =>
	withPage(async (page) => {
		await enter(page, '/dashboard/keys');
		await page.getByRole('button', { name: 'New key' }).first().click();
		await page.getByLabel('Name').fill('ci');
		await page.getByRole('button', { name: 'Make the key' }).click();
		const key = await page.getByLabel('API key', { exact: true }).inputValue();
		expect(key).toMatch(/^atl_[0-9a-f]{32}$/);
		await inspect(page, 'key-new');
		await page.getByRole('button', { name: 'Done' }).click();
		await page.getByText(key.slice(0, 10)).first().waitFor();
		await expect.poll(() => page.content()).not.toContain(key);
		await page.getByRole('button', { name: 'Actions for ci' }).click();
		await page.getByRole('menuitem', { name: 'Delete' }).click();
		await inspect(page, 'key-delete');
		await page.getByRole('button', { name: 'Delete key' }).click();
		await page.getByText('ci is deleted').waitFor();
		const refused = await fetch(`${server}/v1/sandboxes`, { headers: { 'x-api-key': key } });
		expect(refused.status).toBe(401);
	}));

it('lets an owner add somebody and give them another role, and shows a member what they may not use', () =>
	withPage(async (page) => {
		const person = await newPerson('Ben');
		const { team_id } = await admin<{ team_id: string }>('GET', '/v1/me');
		await admin('PUT', `/v1/admin/teams/${team_id}/byoc`, { enabled: true });
		await enter(page, '/dashboard/team');
		await page.getByRole('button', { name: 'Add somebody' }).click();
		await page.getByLabel('Email').fill(person.email);
		await inspect(page, 'team-add');
		await page.getByRole('dialog').getByRole('button', { name: 'Add', exact: true }).click();
		const row = page.locator(`[data-row="${person.user_id}"]`);
		await row.getByLabel(/Role of/).click();
		await page.getByRole('option', { name: /^Admin/ }).click();
		await page.getByText('Ben is admin now').waitFor();
		await row.getByLabel(/Role of/).click();
		await page.getByRole('option', { name: /^Member/ }).click();
		await page.getByText('Ben is member now').waitFor();
		await inspect(page, 'team');
		await withPage(async (other) => {
			await other.goto('/login');
			await logIn(other, person.password, person.email);
			await other.waitForURL(/sandboxes/);
			expect(await other.getByRole('link', { name: 'Platform administration' }).count()).toBe(0);
			await other.getByRole('button', { name: /Team:/ }).click();
			await other
				.getByRole('menuitem', { name: /Default|Admin/ })
				.first()
				.click();
			const item = other.getByRole('link', { name: /Your hosts/ });
			await item.waitFor();
			expect(await item.getAttribute('aria-disabled')).toBe('true');
			await item.hover();
			await other
				.getByRole('tooltip')
				.or(other.getByText(/Only owners and admins/))
				.first()
				.waitFor();
			await inspect(other, 'member');
			// Not for them, whatever they type.
			await other.goto('/dashboard/byoc');
			await other.getByText(/^An owner or admin of .* can register the first host/).waitFor();
			expect(await other.getByRole('button', { name: 'Register host' }).count()).toBe(0);
			await other.goto('/admin/hosts');
			await other.waitForURL(/\/dashboard\/sandboxes/);
		});
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: 'Remove from the team' }).click();
		await page.getByRole('button', { name: 'Remove' }).click();
		await row.waitFor({ state: 'detached' });
		await admin('PUT', `/v1/admin/teams/${team_id}/byoc`, { enabled: false });
	}));

it('makes an account, a team, and switches between teams', () =>
	withPage(async (page) => {
		await page.goto('/signup');
		await page.getByLabel('Your name').fill('Cleo');
		await page.getByLabel('Email').fill(`cleo-${Date.now().toString(36)}@example.org`);
		await page.getByLabel('Password').fill('a long enough one');
		await inspect(page, 'signup');
		await page.getByRole('button', { name: 'Make the account' }).click();
		await page.waitForURL(/sandboxes/);
		await page.getByRole('button', { name: /Team:/ }).click();
		await page.getByRole('menuitem', { name: 'New team' }).click();
		await page.getByLabel('Name').fill('Lagoon works');
		await page.getByRole('button', { name: 'Make the team' }).click();
		await page
			.getByRole('button', { name: 'Team: L Lagoon works' })
			.or(page.getByRole('button', { name: /Lagoon works/ }))
			.first()
			.waitFor();
		await page.reload();
		await page
			.getByRole('button', { name: /Lagoon works/ })
			.first()
			.click();
		await page.getByRole('menuitem').first().waitFor();
		await inspect(page, 'team-switcher');
	}));

it('renames the person, ends another session, then all others, and changes the password', () =>
	withPage(async (page) => {
		const person = await newPerson('Dee');
		await page.goto('/login?next=/dashboard/settings');
		await logIn(page, person.password, person.email);
		await page.getByLabel('Name').fill('Dee Two');
		await page.getByRole('button', { name: 'Save the name' }).click();
		await page.getByText('Your name is saved').waitFor();
		await page.getByRole('button', { name: /Dee Two/ }).waitFor();
		await page.locator('[data-session]').nth(1).waitFor();
		await inspect(page, 'settings');
		await page.getByRole('button', { name: 'End', exact: true }).click();
		await page.getByText('The session has ended').waitFor();
		// And all others in one go: they are out at once, this one is not.
		const tokens = await Promise.all([1, 2, 3].map(() => tokenOf(person.email, person.password)));
		const asked = tokens.map((token) => ask('GET', '/v1/me', { authorization: `Bearer ${token}` }));
		await Promise.all(asked);
		await page.reload();
		await page.locator('[data-session]').nth(3).waitFor();
		await page.getByRole('button', { name: 'End all others' }).click();
		await page.getByRole('heading', { name: 'End all other sessions?' }).waitFor();
		await page.getByText('API keys go on working.').waitFor();
		await inspect(page, 'settings-end-others');
		await page.getByRole('dialog').getByRole('button', { name: 'End 3 sessions' }).click();
		await page.getByText('Ended 3 sessions').waitFor();
		await expect.poll(() => page.locator('[data-session]').count()).toBe(1);
		expect(await page.getByRole('button', { name: 'End all others' }).count()).toBe(0);
		for (const token of tokens)
			await expect(ask('GET', '/v1/me', { authorization: `Bearer ${token}` })).rejects.toThrow(/401/);
		await page.getByLabel('Current password').fill(person.password);
		await page.getByLabel('New password').fill('an even longer one');
		await page.getByRole('button', { name: 'Change the password' }).click();
		await page.getByText('Your password is changed').waitFor();
		await page.reload();
		await page.getByRole('heading', { name: 'Settings' }).waitFor();
	}));

it('disables a person, whose sessions end, and enables them again', () =>
	withPage(async (page) => {
		const person = await newPerson('Eve');
		await joins(person, 'member');
		await enter(page, '/admin/users');
		const row = page.locator(`[data-row="${person.user_id}"]`);
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: /Disable/ }).click();
		await inspect(page, 'admin-user-disable');
		await page.getByRole('dialog').getByRole('button', { name: 'Disable' }).click();
		await row.getByText('disabled').waitFor();
		const refused = await fetch(`${server}/v1/auth/login`, {
			method: 'POST',
			headers: { 'content-type': 'application/json' },
			body: JSON.stringify({ email: person.email, password: person.password })
		});
		expect(refused.status).toBe(401);
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: 'Enable' }).click();
		await row.getByText('active').waitFor();
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: 'Make platform admin' }).click();
		await row.getByText('platform admin').waitFor();
	}));
