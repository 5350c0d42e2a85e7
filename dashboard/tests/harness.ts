// One Chromium for a file of tests; a page that fails its test when the console or the policy complains.
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, expect } from 'vitest';

export const server = process.env.ATOLL_URL ?? 'http://127.0.0.1:7420';
const data = process.env.ATOLL_DATA_DIR ?? '/var/lib/atoll';
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const screenshots = new URL('../screenshots/', import.meta.url).pathname;

interface Credentials {
	admin_email: string;
	admin_password: string;
	api_key: string;
}

export const credentials = JSON.parse(readFileSync(join(data, 'credentials.json'), 'utf8')) as Credentials;

const BESIDE = /\/v1\/sandboxes\/[^/]+\/metrics(\?|$)/;

export let browser: Browser;
let profile: string;

/** Call once per file. */
export function useBrowser(): void {
	beforeAll(async () => {
		profile = mkdtempSync(join(tmpdir(), 'atoll-chromium-'));
		mkdirSync(screenshots, { recursive: true });
		browser = await chromium.launch({
			executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
			args: [
				'--no-sandbox',
				'--disable-gpu',
				'--disable-quic',
				'--no-first-run',
				'--disable-background-networking',
				'--disable-component-update',
				'--disable-sync'
			],
			env: { ...process.env, HOME: profile, XDG_CONFIG_HOME: profile, XDG_CACHE_HOME: profile }
		});
	});
	afterAll(async () => {
		await browser.close();
		rmSync(profile, { recursive: true, force: true });
	});
}

export interface Setting {
	/** Console errors that the test is about: a refused log-in is a 401. */
	expected?: RegExp;
	width?: number;
	scheme?: 'dark' | 'light';
	/** Somebody who wants nothing to move. */
	still?: boolean;
	/** Another Atoll than the one that all tests share. */
	at?: string;
	/** The origin of somebody else's pages that the test passes through. What they do is their own business. */
	elsewhere?: string;
}

/** A fresh context and page. */
export async function withPage(
	run: (page: Page, context: BrowserContext) => Promise<void>,
	options: Setting = {}
): Promise<void> {
	const home = options.at ?? server;
	const context = await browser.newContext({
		baseURL: home,
		colorScheme: options.scheme ?? 'dark',
		reducedMotion: options.still ? 'reduce' : 'no-preference',
		viewport: { width: options.width ?? 1280, height: 800 }
	});
	context.setDefaultTimeout(30_000);
	const page = await context.newPage();
	keepGoing(page);
	const complaints: string[] = [];
	const isElsewhere = (url: string) => options.elsewhere !== undefined && url.startsWith(options.elsewhere);
	// What a change of this machine's network has cut off. The page asks again for its own parts, and says that it missed one.
	const cutOff = new Set<string>();
	page.on('requestfailed', (asked) => {
		if (asked.failure()?.errorText.includes('ERR_NETWORK_CHANGED')) cutOff.add(asked.url());
	});
	page.on('console', (message) => {
		const text = message.text();
		// Sandboxes that come and go change this machine's network; the page asks again, which the tests see.
		if (text.includes('net::ERR_NETWORK_CHANGED')) return;
		// What is asked for beside a list, of each row: the sandbox may be destroyed in between.
		if (/40[49]/.test(text) && BESIDE.test(message.location().url)) return;
		if (message.type() === 'error' && !options.expected?.test(text) && !isElsewhere(page.url()))
			complaints.push(`${text} ${message.location().url}`);
	});
	page.on('pageerror', (error) => {
		if (!isElsewhere(page.url())) complaints.push(String(error));
	});
	page.on('request', (request) => {
		const { origin, protocol, pathname } = new URL(request.url());
		// The dashboard asks for nothing that programs of others could not ask for as well, but for its own files.
		if (
			origin === home &&
			/^(fetch|xhr|eventsource)$/.test(request.resourceType()) &&
			!/^\/(v1|_app)\//.test(pathname)
		)
			complaints.push(`asked for something beside /v1: ${request.url()}`);
		if (origin === home || !protocol.startsWith('http') || isElsewhere(request.url())) return;
		if (!isElsewhere(page.url())) complaints.push(`asked another origin: ${request.url()}`);
	});
	// Nothing leaves this machine.
	if (options.elsewhere)
		await context.route(
			(url) => ![home, options.elsewhere].includes(url.origin),
			(route) => route.abort()
		);
	try {
		await run(page, context);
		const missed = (text: string) =>
			text.includes('dynamically imported module') && [...cutOff].some((url) => text.includes(url));
		expect(complaints.filter((text) => !missed(text))).toEqual([]);
	} finally {
		await context.close();
	}
}

export async function logIn(
	page: Page,
	password = credentials.admin_password,
	email = credentials.admin_email
): Promise<void> {
	await page.getByLabel('Email').fill(email);
	await page.getByLabel('Password').fill(password);
	await page.getByRole('button', { name: 'Log in' }).click();
}

/** Goes to a page of the dashboard as the admin. */
export async function enter(page: Page, address = '/dashboard/sandboxes'): Promise<void> {
	await page.goto(`/login?next=${encodeURIComponent(address)}`);
	await logIn(page);
	await page.waitForURL((url) => url.pathname === address);
	// The address changes before the page is there and hears keys; until then there is the log-in.
	await page.locator('#content h1').first().waitFor();
}

/** Sandboxes that come and go change this machine's network, and what the browser is just connecting to then fails with
 *  it. To people it loads such a page again by itself; a program has to ask for that. */
function keepGoing(page: Page): void {
	const { goto, reload } = page;
	const twice = <T>(load: () => Promise<T>) =>
		load().catch((error: unknown) => {
			if (!String(error).includes('ERR_NETWORK_CHANGED')) throw error;
			return load();
		});
	page.goto = (...told) => twice(() => goto.apply(page, told));
	page.reload = (...told) => twice(() => reload.apply(page, told));
}

/** Answers a question with 503 until somebody presses "Try again". A page asks by itself as well: soon, when its stream
 *  opens meanwhile, and later and later. The first is refused like the rest, the second doesn't come, so that what is read
 *  in the end was read by the button. `held`: there is no answer before. */
export async function failUntilPressed(
	page: Page,
	question: string | RegExp,
	message: string,
	held?: Promise<void>
): Promise<void> {
	await page.addInitScript(() => {
		const later = window.setTimeout;
		const never = 2_000_000_000;
		Object.assign(window, {
			setTimeout: (work: TimerHandler, ms?: number, ...rest: unknown[]) =>
				later(work, (ms ?? 0) >= 2000 ? never : ms, ...rest)
		});
		window.addEventListener(
			'click',
			({ target }) => {
				const button = target instanceof Element ? target.closest('button') : null;
				if (button?.textContent?.includes('Try again')) Object.assign(window, { pressed: true });
			},
			{ capture: true }
		);
	});
	await page.route(question, async (asked) => {
		await held;
		if ((await page.evaluate('window.pressed')) === true) await asked.continue();
		else await asked.fulfill({ status: 503, json: { error: { code: 'unavailable', message } } });
	});
}

/** No serious finding of axe-core, and a picture for people. */
export async function inspect(page: Page, name: string, fullPage = false): Promise<void> {
	await page.screenshot({ path: join(screenshots, `${name}.png`), animations: 'disabled', fullPage });
	// As a script of the developer tools would be: not subject to the page's policy.
	const session = await page.context().newCDPSession(page);
	const { result } = await session.send('Runtime.evaluate', {
		expression: `(() => { ${axe}; return axe.run().then(({ violations }) => JSON.stringify(violations
			.filter(({ impact }) => impact === 'serious' || impact === 'critical')
			.map(({ id, nodes }) => id + ' at ' + nodes.map(({ target }) => target.join(' ')).join(', ')))); })()`,
		awaitPromise: true,
		returnByValue: true,
		allowUnsafeEvalBlockedByCSP: true
	});
	expect(JSON.parse(String(result.value ?? '["axe did not run"]'))).toEqual([]);
}

/** Asks the API as a program does. */
export const api = <T>(method: string, path: string, body?: unknown) =>
	ask<T>(method, path, { 'x-api-key': credentials.api_key }, body);

let token: string | undefined;
/** The same as the admin of this Atoll, signed in with a token as the command line is. */
export async function admin<T>(method: string, path: string, body?: unknown): Promise<T> {
	token ??= await tokenOf(credentials.admin_email, credentials.admin_password);
	return ask<T>(method, path, { authorization: `Bearer ${token}` }, body);
}

export async function tokenOf(email: string, password: string): Promise<string> {
	return (await ask<{ token: string }>('POST', '/v1/auth/login', {}, { email, password })).token;
}

export async function ask<T>(
	method: string,
	path: string,
	headers: Record<string, string>,
	body?: unknown
): Promise<T> {
	const answer = await fetch(server + path, {
		method,
		headers: { ...headers, 'content-type': 'application/json' },
		body: body === undefined ? undefined : JSON.stringify(body)
	});
	const text = await answer.text();
	if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
	return (text === '' ? undefined : JSON.parse(text)) as T;
}
