// The pages, as the navigation and the command palette know them.
import Activity from '@lucide/svelte/icons/activity';
import Box from '@lucide/svelte/icons/box';
import Building2 from '@lucide/svelte/icons/building-2';
import Camera from '@lucide/svelte/icons/camera';
import ChartColumn from '@lucide/svelte/icons/chart-column';
import Database from '@lucide/svelte/icons/database';
import HardDrive from '@lucide/svelte/icons/hard-drive';
import KeyRound from '@lucide/svelte/icons/key-round';
import Layers from '@lucide/svelte/icons/layers';
import LockKeyhole from '@lucide/svelte/icons/lock-keyhole';
import ScrollText from '@lucide/svelte/icons/scroll-text';
import Server from '@lucide/svelte/icons/server';
import Settings from '@lucide/svelte/icons/settings';
import Users from '@lucide/svelte/icons/users';
import Webhook from '@lucide/svelte/icons/webhook';
import type { Component } from 'svelte';

export interface PageEntry {
	name: string;
	path: string;
	icon: Component<{ size?: number; class?: string }>;
	/** Other words that people look for. */
	words?: string;
}
export interface PageGroup {
	name: string | null;
	pages: PageEntry[];
}

export const BYOC: PageEntry = {
	name: 'Your hosts',
	path: '/dashboard/byoc',
	icon: Server,
	words: 'byoc bring your own cloud machines'
};

export const TEAM_PAGES: PageGroup[] = [
	{
		name: null,
		pages: [
			{ name: 'Sandboxes', path: '/dashboard/sandboxes', icon: Box },
			{ name: 'Templates', path: '/dashboard/templates', icon: Layers, words: 'images builds' },
			{ name: 'Snapshots', path: '/dashboard/snapshots', icon: Camera },
			{ name: 'Volumes', path: '/dashboard/volumes', icon: Database, words: 'files storage mounts' },
			{
				name: 'Secrets',
				path: '/dashboard/secrets',
				icon: LockKeyhole,
				words: 'environment variables tokens'
			}
		]
	},
	{
		name: 'Team',
		pages: [
			{ name: 'API keys', path: '/dashboard/keys', icon: KeyRound, words: 'tokens' },
			{ name: 'Members', path: '/dashboard/team', icon: Users, words: 'team people invitations roles' },
			{ name: 'Usage', path: '/dashboard/usage', icon: ChartColumn, words: 'quotas limits' },
			{
				name: 'Audit log',
				path: '/dashboard/audit',
				icon: ScrollText,
				words: 'history who did what'
			},
			{ name: 'Webhooks', path: '/dashboard/webhooks', icon: Webhook, words: 'notifications' },
			{
				name: 'Settings',
				path: '/dashboard/settings',
				icon: Settings,
				words: 'profile sessions password'
			}
		]
	}
];

export const ADMIN_PAGES: PageEntry[] = [
	{ name: 'Hosts', path: '/admin/hosts', icon: HardDrive, words: 'machines platform' },
	{ name: 'Sandboxes', path: '/admin/sandboxes', icon: Box },
	{ name: 'Teams', path: '/admin/teams', icon: Building2, words: 'byoc' },
	{ name: 'Users', path: '/admin/users', icon: Users, words: 'people accounts' },
	{ name: 'Audit log', path: '/admin/audit', icon: Activity }
];

/** Whether one is on that page, or on one below it. */
export const isHere = (path: string, here: string) => here === path || here.startsWith(`${path}/`);
