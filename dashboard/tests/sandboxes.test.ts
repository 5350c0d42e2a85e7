import { execFileSync } from 'node:child_process';
import { afterEach, expect, it } from 'vitest';

import { api, credentials, enter, inspect, logIn, useBrowser, withPage } from './harness';

interface Sandbox {
	id: string;
	status: string;
}

useBrowser();

afterEach(async () => {
	const { items } = await api<{ items: Sandbox[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => api('DELETE', `/v1/sandboxes/${id}`)));
});

const row = (id: string) => `[data-row="${id}"]`;

it('refuses a wrong password in words, keeps the email, and goes on to the page that was asked for', () =>
	withPage(
		async (page) => {
			await page.goto('/dashboard/sandboxes?status=paused');
			await logIn(page, 'wrong');
			await page.getByRole('alert').waitFor();
			expect(await page.getByLabel('Email').inputValue()).toBe(credentials.admin_email);
			await inspect(page, 'login-refused');
			await logIn(page);
			await page.waitForURL(/sandboxes\?status=paused$/);
		},
		{ expected: /401/ }
	));

it('stays signed in over a reload, also deep inside, and is out after logging out', () =>
	withPage(
		async (page) => {
			const { id } = await api<Sandbox>('POST', '/v1/sandboxes', {});
			await enter(page, `/dashboard/sandboxes/${id}`);
			await page.reload();
			await page.getByRole('heading', { name: id }).waitFor();
			await page.getByRole('button', { name: /account and theme/i }).click();
			await page.getByRole('menuitem', { name: 'Log out' }).click();
			await page.waitForURL(/\/login/);
			await page.goto('/dashboard/sandboxes');
			await page.waitForURL(/\/login\?next=/);
		},
		{ expected: /401/ }
	));

it('teaches the first step when there is nothing, creates a sandbox, and shows it', () =>
	withPage(async (page) => {
		await enter(page);
		await page.getByText('atoll sandbox create').waitFor();
		await inspect(page, 'sandboxes-empty');
		// With a key made on the spot, what is copied runs as it is; the key is not left on the screen.
		await page.getByRole('tab', { name: 'curl' }).click();
		await page.getByText('YOUR_KEY').first().waitFor();
		await page.getByRole('button', { name: 'Make an API key' }).click();
		await page.getByRole('dialog').getByLabel('Name').fill('first steps');
		await page.getByRole('button', { name: 'Make the key' }).click();
		const key = await page.getByRole('textbox', { name: 'API key' }).inputValue();
		await page.getByRole('button', { name: 'Done' }).click();
		await page.getByText('Your new key is in what you copy.').waitFor();
		expect(await page.content()).not.toContain(key);
		await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
		await page.getByRole('button', { name: 'Copy commands' }).click();
		const command = String(await page.evaluate('navigator.clipboard.readText()'));
		const answer = JSON.parse(
			execFileSync('sh', ['-c', command], { encoding: 'utf8', stdio: 'pipe' })
		) as Sandbox;
		expect(answer.status).toBe('running');
		await page.locator(row(answer.id)).waitFor();
		await api('DELETE', `/v1/sandboxes/${answer.id}`);
		await page.getByText('No sandboxes yet').waitFor();
		for (const way of ['Python', 'JavaScript']) {
			await page.getByRole('tab', { name: way }).click();
			await inspect(page, `sandboxes-empty-${way.toLowerCase()}`);
		}
		await page.keyboard.press('c');
		await page.getByLabel('Memory, MB').fill('256');
		await page.getByLabel('Labels').fill('task=demo');
		await inspect(page, 'create');
		await page.getByRole('button', { name: 'Create sandbox' }).click();
		await page.waitForURL(/\/sandboxes\/sb-[a-z0-9]{20}$/);
		await page.getByText('256 MB', { exact: true }).waitFor();
		await page.getByText('task=demo').waitFor();
		await page.getByText('Running').first().waitFor();
		await inspect(page, 'sandbox');
	}));

it('says at the field what the server refuses', () =>
	withPage(
		async (page) => {
			await enter(page);
			await page.getByRole('button', { name: 'New sandbox' }).first().click();
			await page.getByLabel('Memory, MB').fill('99999999');
			await page.getByRole('button', { name: 'Create sandbox' }).click();
			await page.locator('[aria-invalid=true]').waitFor();
			expect(await page.getByLabel('Memory, MB').getAttribute('aria-invalid')).toBe('true');
			await inspect(page, 'create-refused');
		},
		{ expected: /400/ }
	));

it('pauses, resumes and destroys from the list, and follows what others do', () =>
	withPage(async (page) => {
		const first = await api<Sandbox>('POST', '/v1/sandboxes', { metadata: { n: '1' } });
		const second = await api<Sandbox>('POST', '/v1/sandboxes', { metadata: { n: '2' } });
		await enter(page);
		await page.locator(row(second.id)).waitFor();
		await inspect(page, 'sandboxes');
		await page.getByRole('button', { name: `Actions for ${first.id}` }).click();
		await page.getByRole('menuitem', { name: 'Pause' }).click();
		await page.locator(row(first.id)).getByText('Paused').waitFor();
		expect((await api<Sandbox>('GET', `/v1/sandboxes/${first.id}`)).status).toBe('paused');
		await api('POST', `/v1/sandboxes/${first.id}/resume`);
		await page.locator(row(first.id)).getByText('Running').waitFor();
		await page.getByLabel('Select all').check();
		await page.getByRole('toolbar').getByRole('button', { name: 'Destroy' }).click();
		await page.getByRole('dialog').getByText(second.id).waitFor();
		await inspect(page, 'destroy');
		await page.getByRole('button', { name: 'Destroy 2' }).click();
		await page.getByText('No sandboxes yet').waitFor();
	}));

it('takes back what it showed beforehand when it could not be done, and says why', () =>
	withPage(
		async (page) => {
			const [first, second] = [
				await api<Sandbox>('POST', '/v1/sandboxes', { memory_mb: 128 }),
				await api<Sandbox>('POST', '/v1/sandboxes', { memory_mb: 128 })
			];
			await enter(page);
			let answer: (how: 'abort' | 'continue') => void = () => undefined;
			const hold = async () => {
				const held = new Promise<'abort' | 'continue'>((settle) => (answer = settle));
				await page.unroute(/\/pause$/);
				await page.route(/\/pause$/, async (asked) => {
					if ((await held) === 'abort') await asked.abort();
					else await asked.continue();
				});
			};
			// The request never gets there.
			await hold();
			await page.getByRole('button', { name: `Actions for ${first.id}` }).click();
			await page.getByRole('menuitem', { name: 'Pause' }).click();
			await page.locator(row(first.id)).getByText('Pausing').waitFor();
			answer('abort');
			await page.locator(row(first.id)).getByText('Running').waitFor();
			const short = (id: string) => id.slice(0, 11);
			await page
				.getByText(new RegExp(`Could not pause ${short(first.id)}.*: The server can’t be reached`))
				.waitFor();
			await inspect(page, 'sandboxes-taken-back');
			expect((await api<Sandbox>('GET', `/v1/sandboxes/${first.id}`)).status).toBe('running');

			// One of two is gone by the time that the server is asked.
			await hold();
			await page.getByLabel('Select all').check();
			await page.getByRole('toolbar').getByRole('button', { name: 'Pause' }).click();
			for (const { id } of [first, second]) await page.locator(row(id)).getByText('Pausing').waitFor();
			await api('DELETE', `/v1/sandboxes/${first.id}`);
			answer('continue');
			await page.getByText(new RegExp(`Could not pause ${short(first.id)}.*: (?!The server)`)).waitFor();
			await page.getByText(new RegExp(`Paused ${short(second.id)}`)).waitFor();
			await page.locator(row(second.id)).getByText('Paused').waitFor();
			await page.locator(row(first.id)).waitFor({ state: 'detached' });
		},
		{ expected: /net::ERR_FAILED|40[49]/ }
	));

it('says of each what it is, how it is and why, where, since when, and what it uses', () =>
	withPage(async (page) => {
		const one = await api<Sandbox & { host_id: string }>('POST', '/v1/sandboxes', { memory_mb: 256 });
		await enter(page);
		const names = await page.getByRole('columnheader').allInnerTexts();
		expect(names.filter(Boolean)).toEqual([
			'Id',
			'Status',
			'Template',
			'CPU and memory',
			'Host',
			'Age',
			'Actions'
		]);
		const it = page.locator(row(one.id));
		await it.getByRole('link', { name: one.id, exact: true }).waitFor();
		await it.getByText('base', { exact: true }).waitFor();
		await it.getByTitle(one.host_id).waitFor();
		expect(await it.locator('time').getAttribute('title')).toMatch(/\d{4}.*\d\d:\d\d/);
		// Measured every five seconds; the curve has a word for those who don't see it.
		await it.getByRole('img', { name: /^CPU \d+ % of one core$/ }).waitFor();
		await it.getByRole('img', { name: /^Memory .*B$/ }).waitFor();
		// Ids, times and sizes stand in the face whose letters are all of one width.
		const face = (of: Element) => getComputedStyle(of).fontFamily;
		for (const part of [
			it.getByRole('link', { name: one.id }),
			it.locator('time'),
			it.getByText(/^[\d.]+ [kMG]?B$/)
		])
			expect(await part.first().evaluate(face)).toMatch(/^"JetBrains Mono/);
		await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
		await it.hover();
		await it.getByRole('button', { name: 'Copy id' }).click();
		await expect.poll(() => page.evaluate('navigator.clipboard.readText()')).toBe(one.id);
		// The reason of a status stands beside it.
		await api('POST', `/v1/sandboxes/${one.id}/timeout`, { timeout_sec: 1, on_timeout: 'pause' });
		await it.getByText('Paused').waitFor({ timeout: 60_000 });
		await it.getByText('idle past its timeout').waitFor();
	}));

it('finds by label and keeps the search in the address', () =>
	withPage(async (page) => {
		const wanted = await api<Sandbox>('POST', '/v1/sandboxes', { metadata: { task: 'wanted' } });
		const other = await api<Sandbox>('POST', '/v1/sandboxes', {});
		await enter(page);
		await page.locator(row(other.id)).waitFor();
		await page.keyboard.press('/');
		await page.keyboard.type('task=wanted');
		await page.locator(row(other.id)).waitFor({ state: 'detached' });
		await page.waitForURL(/q=task/);
		await page.reload();
		await page.locator(row(wanted.id)).waitFor();
		expect(await page.locator('[data-row]').count()).toBe(1);
	}));

it('moves through the list by keys', () =>
	withPage(async (page) => {
		const older = await api<Sandbox>('POST', '/v1/sandboxes', {});
		const newer = await api<Sandbox>('POST', '/v1/sandboxes', {});
		await enter(page);
		await page.locator(row(newer.id)).focus();
		await page.keyboard.press('j');
		await page.locator(`${row(older.id)}:focus`).waitFor();
		await page.keyboard.press('x');
		await page.getByRole('toolbar').getByText('1 selected').waitFor();
		await page.keyboard.press('Enter');
		await page.waitForURL(new RegExp(older.id));
	}));

it('copies an id in its row, says so there and to those who listen, and is as before a moment later', () =>
	withPage(async (page) => {
		const { id } = await api<Sandbox>('POST', '/v1/sandboxes', { memory_mb: 128 });
		await enter(page);
		await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
		const one = page.locator(row(id));
		await one.hover();
		await one.getByRole('button', { name: 'Copy id', exact: true }).click();
		await one.getByRole('button', { name: 'Copied' }).waitFor();
		await page.getByRole('status').getByText('Copied').waitFor({ state: 'attached' });
		expect(await page.evaluate('navigator.clipboard.readText()')).toBe(id);
		await one.getByRole('button', { name: 'Copy id', exact: true }).waitFor();
	}));

it('runs what is typed into the terminal', () =>
	withPage(async (page) => {
		const { id } = await api<Sandbox>('POST', '/v1/sandboxes', {});
		await enter(page, `/dashboard/sandboxes/${id}/terminal`);
		await page.locator('.xterm-rows').getByText('user@').first().waitFor();
		await page.keyboard.type('echo $((6*7)) && stty size\n');
		await page
			.locator('.xterm-rows')
			.getByText(/^42\s*$/)
			.waitFor();
		await page.keyboard.type("printf '\\033[38;2;255;0;128mpink\\033[0m\\n'\n");
		const pink = page.locator('.xterm-rows span', { hasText: /^pink$/ });
		await pink.waitFor();
		expect(await pink.evaluate((element) => getComputedStyle(element).color)).toBe('rgb(255, 0, 128)');
		await inspect(page, 'terminal');
	}));

it('says that there is no such sandbox, and no such page', () =>
	withPage(
		async (page) => {
			await enter(page, '/dashboard/sandboxes/sb-00000000000000000000');
			await page.getByRole('heading', { name: 'No such sandbox' }).waitFor();
			await inspect(page, 'no-sandbox');
			await page.goto('/no/such/page');
			await page.getByRole('heading', { name: 'There is nothing here' }).waitFor();
			await inspect(page, 'no-page');
		},
		{ expected: /404/ }
	));
