"use strict";

// Shows /openapi.json: every operation by tag, with what it takes, what it answers and a curl line.

const METHODS = ["get", "post", "put", "patch", "delete"];

// Builds an element; text is always text, never markup.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  for (const child of children) {
    if (child !== null && child !== undefined) element.append(child);
  }
  return element;
}

function resolve(spec, schema) {
  if (!schema || !schema.$ref) return schema || {};
  const names = schema.$ref.slice(2).split("/");
  const target = names.reduce((place, name) => (place || {})[name], spec) || {};
  return { ...target, description: schema.description || target.description };
}

function typeOf(spec, schema) {
  if (schema === true || !schema) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return choices.map((choice) => typeOf(spec, choice)).join(" | ");
  if (schema.type === "array") return `${typeOf(spec, schema.items)}[]`;
  const types = [].concat(schema.type || "any");
  return types.join(" | ") + (schema.format ? ` (${schema.format})` : "");
}

// A table of an object's members, those of schemas it refers to included once each.
function members(spec, schema, seen = new Set()) {
  const object = resolve(spec, schema);
  const choices = object.anyOf || object.oneOf;
  if (choices && !object.properties) {
    const shown = choices.filter((choice) => resolve(spec, choice).properties);
    return shown.length ? make("div", {}, ...shown.map((choice) => members(spec, choice, seen))) : null;
  }
  if (object.type === "array" || (object.items && !object.properties)) {
    return members(spec, object.items, seen);
  }
  if (!object.properties) return null;
  const required = new Set(object.required || []);
  const rows = [];
  const nested = [];
  for (const [name, value] of Object.entries(object.properties)) {
    const described = resolve(spec, value);
    const notes = [];
    if (required.has(name)) notes.push("required");
    if (described.default !== undefined) notes.push(`default ${JSON.stringify(described.default)}`);
    if (value.description || described.description) notes.push(value.description || described.description);
    rows.push(make("tr", {},
      make("td", {}, make("code", {}, name)),
      make("td", {}, make("code", {}, typeOf(spec, value))),
      make("td", {}, notes.join("; "))));
    const inner = [value, value.items, ...(value.anyOf || [])];
    for (const reference of inner) {
      const target = reference && reference.$ref;
      if (target && !seen.has(target) && resolve(spec, reference).properties) {
        seen.add(target);
        nested.push(make("h3", {}, target.split("/").pop()), members(spec, reference, seen));
      }
    }
  }
  return make("div", {}, make("table", {}, ...rows), ...nested);
}

function curl(path, method, operation) {
  const parts = [`curl -X ${method.toUpperCase()} "${location.origin}${path}"`];
  if ((operation.security || []).length) parts.push('-H "Authorization: Bearer $SCAIBUNKER_KEY"');
  const content = operation.requestBody && operation.requestBody.content;
  const json = content && content["application/json"];
  if (json) parts.push(`--json '${JSON.stringify(json.example || {})}'`);
  else if (content) parts.push("--data-binary @file");
  return parts.join(" \\\n  ");
}

function parameters(spec, operation) {
  const list = operation.parameters || [];
  if (!list.length) return null;
  const rows = list.map((parameter) => make("tr", {},
    make("td", {}, make("code", {}, parameter.name)),
    make("td", {}, parameter.in + (parameter.required ? ", required" : "")),
    make("td", {}, make("code", {}, typeOf(spec, parameter.schema))),
    make("td", {}, parameter.description || "")));
  return make("div", {}, make("h3", {}, "Parameters"), make("table", {}, ...rows));
}

function answers(spec, operation) {
  const shown = [make("h3", {}, "Answers")];
  const rows = [];
  for (const [status, answer] of Object.entries(operation.responses)) {
    const media = Object.keys(answer.content || {}).join(", ");
    rows.push(make("tr", {}, make("td", {}, make("code", {}, status)),
      make("td", {}, answer.description), make("td", {}, make("code", {}, media))));
  }
  shown.push(make("table", {}, ...rows));
  for (const [status, answer] of Object.entries(operation.responses)) {
    const json = (answer.content || {})["application/json"];
    if (Number(status) >= 300 || !json || !json.schema) continue;
    for (const choice of json.schema.anyOf || [json.schema]) {
      const data = (choice.properties || {}).data;
      const table = data && members(spec, data);
      if (table) shown.push(make("h3", {}, `data of ${status}: ${typeOf(spec, data)}`), table);
    }
  }
  return make("div", {}, ...shown);
}

function body(spec, operation) {
  const content = operation.requestBody && operation.requestBody.content;
  if (!content) return null;
  const [media, { schema }] = Object.entries(content)[0];
  const title = schema ? `Body: ${typeOf(spec, schema)}` : `Body: ${media}`;
  return make("div", {}, make("h3", {}, title), schema ? members(spec, schema) : null);
}

// Its details are made when it is opened: the page has a hundred operations.
function show(spec, path, method, operation) {
  const permission = operation["x-permission"];
  const details = make("details", { id: operation.operationId },
    make("summary", {},
      make("span", { class: "method" }, method.toUpperCase()),
      make("span", { class: "path" }, path),
      make("span", { class: "what" }, operation.summary || ""),
      permission ? make("span", { class: "permission" }, permission) : null));
  details.dataset.text = `${method} ${path} ${operation.operationId} ${operation.summary} ${permission || ""}`.toLowerCase();
  details.addEventListener("toggle", () => {
    if (!details.open || details.dataset.filled) return;
    details.dataset.filled = "yes";
    for (const part of [make("pre", {}, curl(path, method, operation)), parameters(spec, operation),
      body(spec, operation), answers(spec, operation)]) {
      if (part) details.append(part);
    }
  });
  return details;
}

function render(spec) {
  document.getElementById("about").textContent = spec.info.description.replaceAll("`", "");
  const byTag = new Map((spec.tags || []).map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      byTag.get(item[method].tags[0]).push(show(spec, path, method, item[method]));
    }
  }
  for (const [tag, operations] of byTag) {
    const id = `tag-${tag.toLowerCase().replaceAll(" ", "-")}`;
    document.getElementById("tags").append(make("a", { href: `#${id}` }, tag));
    document.getElementById("operations").append(
      make("section", {}, make("h2", { id }, tag), ...operations));
  }
  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const section of document.querySelectorAll("section")) {
      let found = 0;
      for (const details of section.querySelectorAll("details")) {
        details.hidden = !words.every((word) => details.dataset.text.includes(word));
        if (!details.hidden) found += 1;
      }
      section.hidden = found === 0;
    }
  });
  const wanted = location.hash && document.getElementById(location.hash.slice(1));
  if (wanted && wanted.tagName === "DETAILS") {
    wanted.open = true;
    wanted.scrollIntoView();
  }
}

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then(render)
  .catch((error) => {
    document.getElementById("about").textContent = `The document cannot be shown: ${error}`;
  });
