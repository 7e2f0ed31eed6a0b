// Searches a running server without any .proto file: the server says itself what it speaks.
//
// Run: npm install; node search_by_reflection.mjs localhost:50051 COLLECTION "a dog on a beach"
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address, collection, text] = process.argv.slice(2);
const credentials = grpc.credentials.createInsecure();

// As much of grpc.reflection.v1alpha as is asked for here.
const field = (type, id, rule) => ({ type, id, rule });
const reflection = protoLoader.fromJSON({
  nested: {
    "grpc.reflection.v1alpha": {
      nested: {
        ServerReflectionRequest: { fields: { file_containing_symbol: field("string", 4) } },
        FileDescriptorResponse: { fields: { file_descriptor_proto: field("bytes", 1, "repeated") } },
        ServerReflectionResponse: { fields: { file_descriptor_response: field("FileDescriptorResponse", 4) } },
        ServerReflection: {
          methods: {
            ServerReflectionInfo: {
              requestType: "ServerReflectionRequest",
              requestStream: true,
              responseType: "ServerReflectionResponse",
              responseStream: true,
            },
          },
        },
      },
    },
  },
}, { keepCase: true });

// The file that defines a symbol, with all that it imports, as a serialized FileDescriptorSet.
function fileDescriptorSet(symbol) {
  const { ServerReflection } = grpc.loadPackageDefinition(reflection).grpc.reflection.v1alpha;
  const client = new ServerReflection(address, credentials);
  return new Promise((resolve, reject) => {
    const stream = client.ServerReflectionInfo({ deadline: Date.now() + 30_000 });
    stream.on("error", reject);
    stream.on("data", ({ file_descriptor_response }) => {
      const files = file_descriptor_response.file_descriptor_proto;
      // Field 1 of FileDescriptorSet, length-delimited: tag 0x0a, a varint, the bytes.
      resolve(Buffer.concat(files.flatMap((file) => [Buffer.from([0x0a, ...varint(file.length)]), file])));
    });
    stream.on("end", () => client.close());
    stream.write({ file_containing_symbol: symbol });
    stream.end();
  });
}

function varint(number) {
  return number < 128 ? [number] : [(number & 127) | 128, ...varint(number >> 7)];
}

const set = await fileDescriptorSet("mplug_api.v1.SearchService");
const definition = protoLoader.loadFileDescriptorSetFromBuffer(set, { keepCase: true });
const { SearchService } = grpc.loadPackageDefinition(definition).mplug_api.v1;
const client = new SearchService(address, credentials);
client.Search({ collection, parts: [{ text }], top_k: 3 }, (error, response) => {
  client.close();
  if (error) throw error;
  for (const hit of response.hits) console.log(`${hit.score.toFixed(4)} ${hit.id}`);
});
